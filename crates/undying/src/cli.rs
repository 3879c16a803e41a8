//! Owns the command line's grammar and its help.

use crate::deterministic::RvCommand;
use crate::doctor::DoctorArgs;
use crate::duration::parse_micros;
use crate::interval::{Interval, parse_interval, parse_percent, parse_slowdown};
use crate::maintenance::MaintenanceCommand;
use crate::migration::MigrateArgs;
use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use protocol::{HostName, Micros, VmName};
use qemu::spec::MemorySize;
use std::path::PathBuf;
use trust::Fingerprint;

/// Undying keeps a virtual machine running when the machine under it dies.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = EXIT_CODES,
    after_long_help = format!("{ROOT_EXAMPLES}\n{EXIT_CODES}")
)]
pub struct Cli {
    /// The agent's socket, as `api_socket` in its configuration
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "UNDYING_SOCKET",
        default_value = "/run/undying/undying.sock"
    )]
    pub socket: PathBuf,
    /// How to print: text for people, or JSON for programs (also for errors, on standard error)
    #[arg(long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed
  2  the command line, the configuration or the request makes no sense
  3  no agent answers
  4  refused: it would be wrong now, or this VM or host cannot be protected
  5  there is no such VM here";

const ROOT_EXAMPLES: &str = "\
Examples:
  undying host --config /etc/undying/host.toml
  undying vm start web.toml
  undying vm protect web --to beta --interval 25ms
  undying vm status web --watch
";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this host's agent, or drain the host
    ///
    /// It stays in the foreground and ends on SIGTERM or SIGINT. The VMs of a host die with its agent: end it
    /// only after their VMs were stopped or handed over. With a section `[witness]` in its configuration the host runs
    /// no VMs: it is the arbiter of others.
    ///
    /// Before its first start a host needs an identity (`init`), and the hosts must trust each other (`trust`): they
    /// speak to nobody else.
    #[command(
        args_conflicts_with_subcommands = true,
        arg_required_else_help = true,
        after_long_help = "Examples:\n  undying host init /etc/undying/host.toml\n  undying host trust /etc/undying/host.toml beta beta.pem\n  undying host --config /etc/undying/host.toml"
    )]
    Host {
        /// The agent's configuration (TOML)
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Instead of running the agent.
        #[command(subcommand)]
        command: Option<HostCommand>,
    },
    /// Start, protect, watch and stop VMs
    #[command(
        arg_required_else_help = true,
        after_long_help = "Examples:\n  undying vm start web.toml\n  undying vm protect web --to beta"
    )]
    Vm {
        /// What to do.
        #[command(subcommand)]
        command: VmCommand,
    },
    /// Look at the disks of VMs
    #[command(
        arg_required_else_help = true,
        after_long_help = "Examples:\n  undying disk status\n  undying disk status web --output json"
    )]
    Disk {
        /// What to do.
        #[command(subcommand)]
        command: DiskCommand,
    },
    /// Show what happened to the VMs of this host
    #[command(after_long_help = "Examples:\n  undying events\n  undying events --follow --after 17")]
    Events {
        /// Go on as events happen, until the agent ends
        #[arg(long)]
        follow: bool,
        /// Only events with a number above N
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
    },
    /// Make an arbiter, or look at what it granted
    #[command(
        arg_required_else_help = true,
        after_long_help = "Examples:\n  undying arbiter init /shared/undying\n  undying arbiter show /shared/undying web"
    )]
    Arbiter {
        /// What to do.
        #[command(subcommand)]
        command: ArbiterCommand,
    },
    /// Run, record and replay the deterministic machine, a RISC-V computer that needs no hypervisor and no agent
    #[command(
        arg_required_else_help = true,
        after_long_help = "Examples:\n  undying rv run --kernel Image --initrd initrd.img --record run.log\n  undying rv replay run.log"
    )]
    Rv {
        /// What to do.
        #[command(subcommand)]
        command: RvCommand,
    },
    /// Look whether this host, and a pair of hosts, can protect VMs, before they are needed
    ///
    /// This host is looked at without an agent too; another one is asked by the agents of both. Each thing that is amiss says
    /// why it matters and what to do. Nothing is changed anywhere: a host leaves a token at its arbiter, makes a TAP for a
    /// moment, and loads the link for 3 s if no VM is protected over it. Exits with 4 if anything stands in the way of
    /// protection.
    #[command(
        after_long_help = "Examples:\n  undying doctor\n  undying doctor --vm web.toml\n  undying doctor --peer beta\n  undying doctor --peer beta --vm web --bandwidth always --output json"
    )]
    Doctor(DoctorArgs),
    /// Print a shell's completions
    #[command(after_long_help = "Example:\n  undying completions bash")]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// What to do with hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Of a host whose agent runs.
    #[command(flatten)]
    Maintenance(MaintenanceCommand),
    /// Of identities.
    #[command(flatten)]
    Identity(IdentityCommand),
}

/// What to do with identities.
#[derive(Debug, Subcommand)]
pub enum IdentityCommand {
    /// Make this host's identity, once: the key and certificate by which other hosts know it
    ///
    /// The key stays in the state directory. The certificate is no secret; every other host needs it. To replace an identity
    /// without a gap: `--renew` here, `undying host trust` at every other host, `--switch` here, `undying host distrust` of
    /// the old fingerprint at every other host. Running agents need not be told.
    #[command(
        after_long_help = "Examples:\n  undying host init /etc/undying/host.toml\n  undying host init /etc/undying/host.toml --renew --days 365\n  undying host init /etc/undying/host.toml --switch"
    )]
    Init {
        /// The host's configuration
        config: PathBuf,
        /// How long the certificate is valid
        #[arg(long, value_name = "N", default_value_t = trust::identity::DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Make the identity that shall follow the one in use
        #[arg(long)]
        renew: bool,
        /// Put the identity into use that `--renew` made
        #[arg(long, conflicts_with_all = ["renew", "days"])]
        switch: bool,
    },
    /// Trust another host: take in its certificate
    ///
    /// A host may have two, the one in use and the next. Whoever has the key of a certificate that is trusted here may protect
    /// VMs with this host's help, so compare the fingerprint that is printed.
    #[command(after_long_help = "Example:\n  undying host trust /etc/undying/host.toml beta beta.pem")]
    Trust {
        /// This host's configuration
        config: PathBuf,
        /// The other host
        name: HostName,
        /// Its certificate, `identity/certificate.pem` in its state directory
        #[arg(value_name = "CERTIFICATE.pem")]
        certificate: PathBuf,
    },
    /// Revoke what was trusted, for good: all certificates of another host, or one
    ///
    /// Sessions by a revoked certificate end within two seconds; VMs that they protected go on unprotected.
    #[command(
        after_long_help = "Examples:\n  undying host distrust /etc/undying/host.toml beta\n  undying host distrust /etc/undying/host.toml beta --fingerprint 4F5A5C8F4C9BD4D3E5E0F2D1C0B7A69588776655443322110FFEEDDCCBBAA990"
    )]
    Distrust {
        /// This host's configuration
        config: PathBuf,
        /// The other host
        name: HostName,
        /// Only the certificate with this fingerprint
        #[arg(long, value_name = "SHA256")]
        fingerprint: Option<Fingerprint>,
    },
    /// Show this host's certificate, those that it trusts, and those that it revoked
    #[command(
        after_long_help = "Examples:\n  undying host identities /etc/undying/host.toml\n  undying host identities /etc/undying/host.toml --output json"
    )]
    Identities {
        /// This host's configuration
        config: PathBuf,
    },
}

/// What to do with VMs.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Start the VM of a VM file here, unprotected
    #[command(
        after_long_help = "Examples:\n  undying vm start web.toml\n  undying vm start web.toml --last-owner-is-dead"
    )]
    Start {
        /// The VM file
        #[arg(value_name = "SPEC.toml")]
        spec: PathBuf,
        /// Start although the last owner did not stop the VM: only if that host is certainly dead, or two copies live
        #[arg(long)]
        last_owner_is_dead: bool,
        /// Start from this host's disks although another host owned the VM after them: what it wrote since is lost
        #[arg(long)]
        accept_older_disk: bool,
    },
    /// List the VMs that this host runs or stands by for
    #[command(after_long_help = "Example:\n  undying vm list --output json")]
    List,
    /// Show everything about one VM, or about all
    #[command(
        after_long_help = "Examples:\n  undying vm status web\n  undying vm status web --watch\n  undying vm status --output json"
    )]
    Status {
        /// The VM; all without it
        name: Option<VmName>,
        /// Show again and again, in place; with JSON one line each time
        #[arg(long)]
        watch: bool,
    },
    /// Protect a VM: keep a copy ready on another host
    ///
    /// Waits, with progress, until the first copy is complete and the other host can take over. From then on the VM is
    /// protected again by itself after each loss, on the best of its candidates: the hosts of `--to` and those where it ran.
    /// If another host protects the VM already, the first of `--to` takes its place; the VM is protected all the while.
    #[command(
        after_long_help = "Examples:\n  undying vm protect web --to beta\n  undying vm protect web --to beta --to gamma --prefer alpha\n  undying vm protect web --to beta --interval 10ms --max-in-flight 2 --no-wait\n  undying vm protect web --to beta --interval auto --max-overhead 10% --max-latency 20ms\n  undying vm protect web --to beta --copy-rate 200M\n  undying vm protect web --to beta --no-input-replay"
    )]
    Protect {
        /// The VM
        name: VmName,
        /// The backup: a host among the agent's peers. Several, the best first: the first that takes the VM is used, the
        /// others when that is lost
        #[arg(long, value_name = "HOST", required = true)]
        to: Vec<HostName>,
        /// Leave the VM unprotected after a loss, until somebody protects it
        #[arg(long)]
        no_repair: bool,
        /// Move the VM to this host, planned, once that has been its armed backup for a while
        #[arg(long, value_name = "HOST")]
        prefer: Option<HostName>,
        /// That while; twice as long after each early death of the preferred host
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_micros)]
        settle: Micros,
        /// From one checkpoint to the next, such as 25ms; 1ms to 10s; or auto: as soon as output waits, seldom while
        /// none does
        #[arg(long, value_name = "TIME|auto", default_value = "auto", value_parser = parse_interval)]
        interval: Interval,
        /// With --interval auto: most of the VM's time that checkpoints may take
        #[arg(long, value_name = "PERCENT", default_value = "20%", value_parser = parse_percent)]
        max_overhead: u8,
        /// With --interval auto: output waits no longer than this for a checkpoint to begin, whatever that takes
        #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_micros)]
        max_latency: Micros,
        /// Most of its time that a guest may lose that writes faster than the backup can follow, 0% to 90%
        #[arg(long, value_name = "PERCENT", default_value = "80%", value_parser = parse_slowdown)]
        max_slowdown: u8,
        /// Checkpoints under way at a time, 1 to 64; past it the guest stands still [default: the agent's]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
        max_in_flight: Option<u32>,
        /// Most bytes a second of the first copy or resynchronisation, such as 200M; 0 for no limit; checkpoints are
        /// not limited [default: the agent's]
        #[arg(long, value_name = "SIZE")]
        copy_rate: Option<MemorySize>,
        /// Do not send the backup what the guest is given: saves the link as many bytes as clients send, and after a
        /// failover clients send again what the dead host swallowed when their own time-outs run out, or never (UDP)
        #[arg(long)]
        no_input_replay: bool,
        /// Return once the agent accepted it
        #[arg(long)]
        no_wait: bool,
    },
    /// End a VM's protection; the VM runs on without a backup, and is not protected again by itself
    #[command(after_long_help = "Example:\n  undying vm unprotect web")]
    Unprotect {
        /// The VM
        name: VmName,
    },
    /// End a VM, and its protection with it
    #[command(after_long_help = "Example:\n  undying vm stop web")]
    Stop {
        /// The VM
        name: VmName,
    },
    /// Hand a protected VM over to its backup, which goes on with it
    ///
    /// Waits until the VM is gone from here, or runs on here because the handover failed.
    #[command(after_long_help = "Examples:\n  undying vm failover web\n  undying vm failover web --no-wait")]
    Failover {
        /// The VM
        name: VmName,
        /// Return once the agent accepted it
        #[arg(long)]
        no_wait: bool,
    },
    /// Bring a running VM to another host, or end that
    ///
    /// Waits, with progress, until the VM runs there, or stays here because the migration gave up or failed. The VM runs on
    /// meanwhile, with its open connections and its disks; it stands still for the end of it only. Disks with `shared = true` in
    /// the VM file are handed over, others are copied. A VM that is protected stays so: a third host becomes
    /// its backup first, at no more than the ceiling of the rate, the other limits having no use there; behind the move the VM is
    /// protected by its old host, once that has a first copy.
    #[command(
        after_long_help = "Examples:\n  undying vm migrate web --to beta\n  undying vm migrate web --to beta --max-downtime 50ms --rate-floor 20M --rate-ceiling 200M\n  undying vm migrate web --to beta --strategy stop-the-world\n  undying vm migrate web --cancel"
    )]
    Migrate(MigrateArgs),
    /// List a VM's checkpoints, as far as the agent keeps them
    #[command(
        after_long_help = "Examples:\n  undying vm epochs web\n  undying vm epochs web --since-at-us 1700000000000000 --output json"
    )]
    Epochs {
        /// The VM
        name: VmName,
        /// Only those cut at or after T, in microseconds since 1970
        #[arg(long, value_name = "T", default_value_t = 0)]
        since_at_us: u64,
    },
}

/// What to do with disks.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Show the disks that this host serves: their images, sizes, what was asked of them, and how they differ
    #[command(after_long_help = "Examples:\n  undying disk status\n  undying disk status web")]
    Status {
        /// The VM; all without it
        name: Option<VmName>,
    },
}

/// What to do with an arbiter.
#[derive(Debug, Subcommand)]
pub enum ArbiterCommand {
    /// Make an arbiter, once, before the first VM
    ///
    /// It is named by its directory, on storage that all hosts share, or by a host's configuration: that of a host
    /// that uses it (directory, etcd), or that of the witness itself, on the witness.
    #[command(
        after_long_help = "Examples:\n  undying arbiter init /shared/undying\n  undying arbiter init /etc/undying/host.toml"
    )]
    Init {
        /// The directory, which must be there already, or a host's configuration
        #[arg(value_name = "DIR|CONFIG")]
        place: PathBuf,
    },
    /// Show who owns which VM
    #[command(
        after_long_help = "Examples:\n  undying arbiter show /shared/undying\n  undying arbiter show /etc/undying/host.toml web"
    )]
    Show {
        /// The directory, or the configuration of a host that uses the arbiter
        #[arg(value_name = "DIR|CONFIG")]
        place: PathBuf,
        /// The VM; all without it
        vm: Option<VmName>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_holds_together() {
        Cli::command().debug_assert();
    }

    /// Every command's long help, with the command's name.
    fn helps(command: &clap::Command, all: &mut Vec<(String, String)>) {
        let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        all.push((command.get_name().to_string(), examples));
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            helps(child, all);
        }
    }

    #[test]
    fn every_command_has_examples_and_they_parse() {
        let mut all = Vec::new();
        helps(&Cli::command(), &mut all);
        assert_eq!(all.len(), 31, "all commands were found: {all:?}");
        for (command, help) in all {
            let examples: Vec<&str> = help.lines().filter(|line| line.starts_with("  undying ")).collect();
            assert!(!examples.is_empty(), "{command} has no example");
            for example in examples {
                let parsed = Cli::try_parse_from(example.split_whitespace());
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
                assert!(
                    command == "undying" || example.contains(&format!(" {command}")),
                    "{command}: {example}"
                );
            }
        }
    }

    #[test]
    fn what_is_wrong_on_the_line_is_named() {
        for (line, named) in [
            ("undying vm protect web --to beta --interval 25", "25ms"),
            ("undying vm protect web --to ../x", "../x"),
            ("undying vm protect web --to beta --max-overhead 95%", "20%"),
            ("undying vm protect web --to beta --max-in-flight 65", "1..=64"),
            ("undying vm protect web --to beta --copy-rate fast", "512MiB"),
            ("undying vm stop", "NAME"),
            ("undying vm migrate web", "--to"),
            ("undying vm migrate web --to beta --cancel", "--cancel"),
            ("undying vm migrate web --to beta --max-slowdown 95%", "60%"),
            ("undying vm stop -- -x", "'-'"),
        ] {
            let error = Cli::try_parse_from(line.split_whitespace()).unwrap_err();
            assert!(error.to_string().contains(named), "{line}: {error}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        let line = "undying vm list --output json --socket /x.sock";
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        assert_eq!((cli.output, cli.socket), (Output::Json, PathBuf::from("/x.sock")));
    }
}
