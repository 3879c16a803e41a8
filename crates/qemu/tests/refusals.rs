//! What makes no sense or cannot be protected is refused before anything starts, with what, why and what to do.

mod common;

use common::{Bench, Setting, TCG};
use proptest::prelude::*;
use qemu::launch::LaunchError;
use qemu::ram::RamError;
use qemu::spec::Reason;
use qemu::{Qemu, Role, VmSpec};

fn spec_with(args: &[&str]) -> VmSpec {
    let mut spec = VmSpec::parse("name = \"a\"\nkernel = \"k\"\n", "test").unwrap();
    spec.extra_args = args.iter().map(ToString::to_string).collect();
    spec
}

fn reasons(args: &[&str]) -> Vec<Reason> {
    let refusals = spec_with(args).check_protectable().err().unwrap_or_default();
    refusals.iter().map(|r| r.reason).collect()
}

#[test]
fn what_cannot_be_protected_is_refused_with_its_reason() {
    let cases: &[(&[&str], Reason)] = &[
        (&["-drive", "file=a.img,if=virtio"], Reason::WritableDisk),
        (&["--drive", "file=a.img,readonly=off"], Reason::WritableDisk),
        (&["-drive", "file=a.img,media=cdrom,readonly=off"], Reason::WritableDisk),
        (&["-blockdev", "driver=file,filename=a,node-name=d"], Reason::WritableDisk),
        (
            &["-blockdev", r#"{"driver":"file","filename":"a","node-name":"d","read-only":false}"#],
            Reason::WritableDisk,
        ),
        (&["-hda", "a.img"], Reason::WritableDisk),
        (&["-snapshot"], Reason::WritableDisk),
        (&["-pflash", "vars.fd"], Reason::WritableDisk),
        (&["-incoming", "tcp:0:4444"], Reason::OwnedArgument),
        (&["-qmp", "stdio"], Reason::OwnedArgument),
        (&["-S"], Reason::OwnedArgument),
        (&["-m", "1G,slots=2,maxmem=4G"], Reason::OwnedArgument),
        (&["-machine", "pc"], Reason::OwnedArgument),
        (&["-netdev", "vhost-user,chardev=c,id=n"], Reason::VhostUser),
        (&["-chardev", "socket,id=vhost,path=/run/vhost.sock"], Reason::VhostUser),
        (&["-device", "vhost-user-blk-pci,chardev=c"], Reason::VhostUser),
        (&["-netdev", "tap,id=n,vhost=on"], Reason::Vhost),
        (&["-device", "vhost-vsock-pci,guest-cid=3"], Reason::Vhost),
        (&["-device", r#"{"driver":"vhost-scsi-pci","wwpn":"x"}"#], Reason::Vhost),
        (&["-device", "vfio-pci,host=01:00.0"], Reason::PassedThrough),
        (&["-device", "host=01:00.0,driver=vfio-pci"], Reason::PassedThrough),
        (&["-device", "usb-host,vendorid=1"], Reason::PassedThrough),
        (&["-mem-path", "/dev/hugepages"], Reason::HugePages),
        (&["-object", "memory-backend-memfd,id=m,size=1G,hugetlb=on"], Reason::HugePages),
        (&["-object", "memory-backend-ram,id=m,size=1G"], Reason::ForeignMemory),
        (&["-mem-prealloc"], Reason::ForeignMemory),
        (&["-device", "virtio-balloon-pci"], Reason::Balloon),
        (&["-device", "pc-dimm,memdev=m"], Reason::MemoryHotplug),
        (&["-device", "virtio-mem-pci,memdev=m"], Reason::MemoryHotplug),
        (&["-nic", "user"], Reason::UngatedNetwork),
        (&["-netdev", "tap,id=n,vhost=off"], Reason::UngatedNetwork),
        (&["-virtfs", "local,path=/srv,mount_tag=s,security_model=none"], Reason::SharedFiles),
        (&["-tpmdev", "emulator,id=t,chardev=c"], Reason::StateElsewhere),
        (&["-device", "ivshmem-plain,memdev=m"], Reason::StateElsewhere),
        (&["-readconfig", "more.cfg"], Reason::Hidden),
        (&["-sandbox", "on"], Reason::Sandbox),
        (&["disk.img"], Reason::Malformed),
        (&["-device"], Reason::Malformed),
    ];
    for (args, reason) in cases {
        assert_eq!(reasons(args), [*reason], "{args:?}");
    }
}

#[test]
fn what_is_harmless_is_let_through() {
    let cases: &[&[&str]] = &[
        &["-device", "virtio-rng-pci"],
        &["-cdrom", "-S"],
        &["-drive", "file=a.iso,media=cdrom", "-device", "usb-ehci"],
        &["-drive", "file=a.img,readonly=on,if=virtio"],
        &["-blockdev", r#"{"driver":"file","filename":"a","node-name":"d","read-only":true}"#],
        &["-smbios", "type=1,serial=vhost=on"],
        &["-global", "virtio-mmio.force-legacy=false"],
        &["-object", "rng-random,id=r,filename=/dev/urandom"],
    ];
    for args in cases {
        assert_eq!(reasons(args), [], "{args:?}");
    }
}

#[test]
fn every_refusal_is_told_at_once_and_in_full() {
    let refusals = spec_with(&["-hda", "a.img", "-device", "vfio-pci"]).check_protectable().unwrap_err();
    assert_eq!(refusals.len(), 2);
    let text = refusals[0].to_string();
    assert!(
        text.starts_with("`-hda a.img` cannot be protected: writes to a local disk would stay behind"),
        "{text}"
    );
    assert!(text.contains("; describe the disk in [[disk]]") && text.contains("add read-only=on"), "{text}");
}

#[test]
fn read_only_media_belong_to_what_both_hosts_must_have() {
    let spec = spec_with(&["-cdrom", "a.iso", "-drive", "file=b.img,readonly=on"]);
    let files: Vec<String> = spec.files().iter().map(|(_, path)| path.display().to_string()).collect();
    assert_eq!(files, ["k", "a.iso", "b.img"]);
}

#[test]
fn a_wrong_file_is_told_by_key_and_with_what_is_right() {
    let cases = [
        ("name = \"a b\"\nkernel = \"k\"", "`name`"),
        ("name = \"a\"\nkernel = \"k\"\ncpus = 0", "`cpus`: must be 1 to 255"),
        ("name = \"a\"\nkernel = \"k\"\nmemory = \"lots\"", "512MiB"),
        ("name = \"a\"\nkernel = \"k\"\nmemory = \"4097KiB\"", "`memory`"),
        ("name = \"a\"\nkernel = \"k\"\nmachine = \"q35,hpet=off\"", "`machine`"),
        ("name = \"a\"\nkernel = \"k\"\nmachine = \"q35\"\nprofile = \"lean\"", "`profile`"),
        ("name = \"a\"\nkernel = \"k\"\nprofile = \"leanest\"", "lean"),
        ("name = \"a\"\nkernel = \"k\"\naccel = \"hvf\"", "tcg"),
        ("name = \"a\"\nkernel = \"k\"\nkernal = \"k\"", "kernal"),
        ("name = \"a\"\nfirmware = \"f\"\nappend = \"x\"", "need a `kernel`"),
        ("name = \"a\"", "nothing to boot"),
        ("name = \"a\"\nkernel = \"k\"\n[[nic]]\nbridge = \"a/b\"", "network device"),
        (
            "name = \"a\"\nkernel = \"k\"\n[[nic]]\nbridge = \"b\"\nmac = \"01:00:00:00:00:00\"",
            "52:54:00:12:34:56",
        ),
        (
            "name = \"a\"\nkernel = \"k\"\nmachine = \"microvm\"\n[[nic]]\nbridge = \"b\"\nmodel = \"e1000e\"",
            "no PCI bus",
        ),
        ("name = \"a\"\nfirmware = \"f\"\nmachine = \"rv\"", "boots a RISC-V kernel"),
        ("name = \"a\"\nkernel = \"k\"\nmachine = \"rv\"\ncpus = 2", "one processor"),
        ("name = \"a\"\nkernel = \"k\"\nmachine = \"rv\"\naccel = \"kvm\"", "no accelerator"),
        ("name = \"a\"\nkernel = \"k\"\nmachine = \"rv\"\ncpu_model = \"max\"", "`cpu_model`"),
        ("name = \"a\"\nkernel = \"k\"\nmachine = \"rv\"\nextra_args = [\"-s\"]", "no QEMU"),
        (
            "name = \"a\"\nkernel = \"k\"\nmachine = \"rv\"\n[[nic]]\nbridge = \"b\"\nmodel = \"e1000e\"",
            "virtio cards",
        ),
        (
            "name = \"a\"\nkernel = \"k\"\nmachine = \"rv\"\n[[disk]]\nimage = \"i\"\nformat = \"qcow2\"",
            "raw images",
        ),
        (
            "name = \"a\"\nkernel = \"k\"\nmachine = \"rv\"\n[[disk]]\nimage = \"i\"\nmodel = \"virtio-legacy\"",
            "virtio disks",
        ),
    ];
    for (text, expected) in cases {
        let error = VmSpec::parse(text, "vm.toml").unwrap_err().to_string();
        assert!(error.contains("vm.toml") && error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn addresses_are_stable_and_differ() {
    let spec = |name: &str| {
        let nics = "[[nic]]\nbridge = \"b\"\n[[nic]]\nbridge = \"b\"\n";
        VmSpec::parse(&format!("name = \"{name}\"\nkernel = \"k\"\n{nics}"), "test").unwrap()
    };
    let (a, b) = (spec("a"), spec("b"));
    assert_eq!(a.mac(0), spec("a").mac(0));
    assert!(a.mac(0) != a.mac(1) && a.mac(0) != b.mac(0));
    assert_eq!(a.mac(0).0[0] & 3, 2, "unicast, locally administered");
}

#[test]
fn launch_refuses_before_it_starts_anything() {
    let Some(mut bench) = Bench::new(TCG) else { return };
    bench.resolved.spec.extra_args = vec!["-hda".into(), "/nonexistent.img".into()];
    let error = Qemu::launch(&bench.installation, &bench.resolved, Role::Primary, bench.memory(), Vec::new())
        .unwrap_err();
    assert!(matches!(error, LaunchError::Refused(_)), "{error}");
}

#[test]
fn a_device_that_cannot_be_saved_is_refused_by_qemu() {
    let Some(mut bench) = Bench::new(TCG) else { return };
    let args = ["-device", "usb-ehci,id=e", "-device", "usb-uas,bus=e.0"];
    bench.resolved.spec.extra_args = args.map(str::to_string).to_vec();
    let error = Qemu::launch(&bench.installation, &bench.resolved, Role::Primary, bench.memory(), Vec::new())
        .unwrap_err();
    assert!(error.to_string().contains("usb-uas is not migratable"), "{error}");
}

#[test]
fn a_qemu_that_dies_at_once_leaves_its_last_words() {
    let Some(mut bench) = Bench::new(TCG) else { return };
    bench.resolved.spec.firmware = Some("/nonexistent.bin".into());
    let error = Qemu::launch(&bench.installation, &bench.resolved, Role::Primary, bench.memory(), Vec::new())
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("exited with status 1") && text.contains("/nonexistent.bin"), "{text}");
}

#[test]
fn an_unknown_machine_is_refused_with_the_version() {
    let Some(bench) = Bench::new(TCG) else { return };
    let error = bench.installation.resolve_machine("vax").unwrap_err().to_string();
    assert!(error.contains("\"vax\"") && error.contains("-machine help"), "{error}");
    assert_ne!(bench.installation.resolve_machine("q35").unwrap(), "q35", "an alias becomes exact");
}

#[test]
fn memory_whose_place_nobody_tells_is_refused() {
    let Some(mut bench) = Bench::new(Setting { ..TCG }) else { return };
    bench.resolved.spec.extra_args = vec!["-device".into(), "VGA".into()];
    let launched =
        Qemu::launch(&bench.installation, &bench.resolved, Role::Primary, bench.memory(), Vec::new());
    match launched {
        Err(LaunchError::Ram(RamError::NoAddress(block))) => assert!(block.contains("vga"), "{block}"),
        Err(other) => panic!("{other}"),
        // QEMU 8.0 and newer tell the place; then the video memory is tracked like main memory.
        Ok((qemu, _)) => {
            assert!(bench.installation.version().major >= 8);
            assert!(qemu.ram().tracked_ranges().len() >= 2);
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "((name|kernel|memory|cpus|\\[\\[nic\\]\\]|bridge|mac|extra_args)? ?(=|\n) ?\\PC{0,8}\n?){0,8}") {
        if let Ok(spec) = VmSpec::parse(&text, "test") {
            let _ = spec.check_protectable();
        }
    }

    #[test]
    fn no_arguments_panic(args in proptest::collection::vec("-?-?(device|drive|netdev|object|S|hda)?|\\{\\PC{0,9}\\}?|\\PC{0,12}", 0..6)) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let _ = reasons(&args);
        let _ = spec_with(&args).files();
    }

    #[test]
    fn a_spec_survives_its_own_file(cpus in 1_u32..255, mib in 1_u64..9999, name in "[a-z][a-z0-9.-]{0,20}") {
        let mut spec = spec_with(&["-device", "virtio-rng-pci"]);
        (spec.cpus, spec.memory.0, spec.name) = (cpus, mib << 20, name);
        let text = toml::to_string(&spec).unwrap();
        prop_assert_eq!(VmSpec::parse(&text, "test").unwrap(), spec);
    }
}
