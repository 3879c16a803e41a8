//! Owns the grammar of a host's maintenance on the command line.

use clap::Subcommand;

/// What to do with a host whose agent runs.
#[derive(Debug, Subcommand)]
pub enum MaintenanceCommand {
    /// Give away the VMs of this host, and take no new ones
    ///
    /// VMs that run here move to their backups, planned and without loss; one without a backup is protected on one of its
    /// candidates first. Primaries of standbys here bring up other candidates in this host's place; their VMs are protected
    /// all the while. The drain lasts, restarts of the agent included, until
    /// `undrain`. Exits with 4 if for 30 s nothing moved and VMs are still here.
    #[command(
        after_long_help = "Examples:\n  undying host drain\n  undying host drain --wait\n  undying host drain --no-wait --output json"
    )]
    Drain {
        /// Wait for as long as it takes
        #[arg(long)]
        wait: bool,
        /// Return once the agent has begun
        #[arg(long, conflicts_with = "wait")]
        no_wait: bool,
    },
    /// End a drain: this host takes VMs again
    #[command(after_long_help = "Example:\n  undying host undrain")]
    Undrain,
    /// Show this host: its peers and the paths to them, its arbiter, its VMs, its room, and whether it is being drained
    #[command(after_long_help = "Examples:\n  undying host status\n  undying host status --output json")]
    Status,
}
