//! An engine without machines: what the API and the command line are tested against.

use api::migration::MigrateRequest;
use api::types::{
    ApiError, CopyProgress, DoctorReport, DoctorRequest, EpochRecord, ErrorCode, EventRecord, GateStatus,
    HostStatus, Measured, ProtectRequest, RepairStatus, Role, StartRequest, VmStatus,
};
use host::control::Control;
use host::doctor::Check;
use protocol::{HostName, VmName};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// How often a VM's status is asked before its first copy is done.
const COPY_POLLS: u64 = 3;

/// One host, `alpha`, with the VM `web` on it.
pub struct Fake {
    state: Mutex<State>,
    more: Condvar,
}

struct State {
    vms: Vec<VmStatus>,
    events: Vec<EventRecord>,
    /// Calls that change something, in words.
    calls: Vec<String>,
    polls: u64,
    /// Protection ends so instead of succeeding.
    protect_fails: bool,
}

pub fn vm_name(name: &str) -> VmName {
    VmName::new(name).unwrap()
}

pub fn host_name(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

impl Fake {
    pub fn new() -> Self {
        let state = State {
            vms: vec![status("web")],
            events: Vec::new(),
            calls: Vec::new(),
            polls: 0,
            protect_fails: false,
        };
        Self { state: Mutex::new(state), more: Condvar::new() }
    }

    /// From now on protecting a VM is accepted and then fails.
    pub fn let_protection_fail(&self) {
        self.state.lock().unwrap().protect_fails = true;
    }

    /// Something happens to a VM.
    pub fn happen(&self, vm: &str, text: &str) {
        log(&mut self.state.lock().unwrap().events, vm, "made_up", text);
        self.more.notify_all();
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    fn change<T>(
        &self,
        name: &VmName,
        call: String,
        change: impl FnOnce(&mut State, usize) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let mut state = self.state.lock().unwrap();
        state.calls.push(call);
        let at = state.vms.iter().position(|vm| vm.name == *name).ok_or_else(|| missing(name))?;
        change(&mut state, at)
    }
}

fn log(events: &mut Vec<EventRecord>, vm: &str, event: &str, text: &str) {
    events.push(EventRecord {
        seq: events.len() as u64 + 1,
        at_us: 1_700_000_000_000_000,
        host: host_name("alpha"),
        vm: Some(vm_name(vm)),
        what: serde_json::json!({"event": event}),
        text: text.into(),
    });
}

fn missing(name: &VmName) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("host alpha has no VM {name}"))
}

fn refused(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Refused, message)
}

pub fn status(name: &str) -> VmStatus {
    VmStatus {
        name: vm_name(name),
        host: host_name("alpha"),
        role: Role::Primary,
        phase: "unprotected".into(),
        term: 7,
        peer: None,
        successor: None,
        epoch: 0,
        acked_epoch: 0,
        in_flight: 0,
        interval_us: 0,
        pacing: None,
        throttled: false,
        throttled_ms: 0.0,
        slowed_percent: 0,
        pid: Some(4711),
        machine: "pc-q35-7.2".into(),
        accel: "tcg (no vmx or svm)".into(),
        cpus: 2,
        memory_bytes: 512 << 20,
        copy: None,
        copy_speed: None,
        measured: Measured::default(),
        gate: GateStatus::default(),
        agent_bytes: 64 << 20,
        detection: None,
        paths: vec![],
        disks: Vec::new(),
        journal: None,
        copy_rate: None,
        repair: RepairStatus::default(),
        migration: None,
        lately: Vec::new(),
        warnings: Vec::new(),
    }
}

impl Control for Fake {
    fn host_status(&self) -> HostStatus {
        let vms = self.vms().into_iter().map(|vm| vm.name).collect();
        HostStatus {
            name: host_name("alpha"),
            version: "0.1.0".into(),
            listen: "10.0.0.1:7400".into(),
            peers: vec![(host_name("beta"), "10.0.0.2:7400".into())],
            arbiter: "directory /nowhere".into(),
            arbiter_error: Some("not mounted".into()),
            draining: false,
            vms,
            room: None,
            places: Vec::new(),
            links: Vec::new(),
        }
    }

    fn drain(&self, on: bool) -> Result<(), ApiError> {
        self.state.lock().unwrap().calls.push(format!("drain {on}"));
        Ok(())
    }

    fn doctor(&self, request: &DoctorRequest) -> Result<DoctorReport, ApiError> {
        let call = format!("doctor peer={:?} bandwidth={:?}", request.peer, request.bandwidth);
        self.state.lock().unwrap().calls.push(call);
        let check = Check { name: "link", why: "It must be there." };
        let finding = match request.peer.as_ref().map(HostName::as_str) {
            None => check.ok("alpha", "good"),
            Some("beta") => check.warning("alpha, beta", "slow", "use another"),
            Some(_) => check.failure("alpha, nobody", "nobody is there", "start its agent"),
        };
        Ok(DoctorReport { findings: vec![finding] })
    }

    fn vms(&self) -> Vec<VmStatus> {
        self.state.lock().unwrap().vms.clone()
    }

    fn vm(&self, name: &VmName) -> Result<VmStatus, ApiError> {
        let mut state = self.state.lock().unwrap();
        let at = state.vms.iter().position(|vm| vm.name == *name).ok_or_else(|| missing(name))?;
        if state.vms[at].phase == "copying" {
            state.polls += 1;
            if state.polls >= COPY_POLLS {
                let fails = state.protect_fails;
                let vm = &mut state.vms[at];
                vm.phase = if fails { "unprotected" } else { "protected" }.into();
                vm.copy = None;
                if fails {
                    log(&mut state.events, "web", "protect_failed", "protecting failed: the backup is full");
                }
            }
        }
        Ok(state.vms[at].clone())
    }

    fn start(&self, request: StartRequest) -> Result<VmStatus, ApiError> {
        match request.spec.as_str() {
            "panic" => panic!("planted"),
            "bad" => Err(ApiError::new(ErrorCode::Invalid, "the VM file is not right: key nmae")),
            "boom" => Err(ApiError::new(ErrorCode::Failed, "QEMU died: no such device")),
            _ => {
                let mut state = self.state.lock().unwrap();
                let call =
                    format!("start in {} dead={}", request.base_dir.display(), request.last_owner_is_dead);
                state.calls.push(call);
                state.vms.push(status("db"));
                Ok(status("db"))
            }
        }
    }

    fn protect(&self, name: &VmName, request: ProtectRequest) -> Result<(), ApiError> {
        let call =
            format!("protect to={} us={} max={:?}", request.to, request.interval_us, request.max_in_flight);
        self.change(name, call, |state, at| {
            if request.to.as_str() == "nobody" {
                return Err(refused("host nobody is not among the peers of alpha"));
            }
            let vm = &mut state.vms[at];
            vm.phase = "copying".into();
            vm.peer = Some(request.to);
            vm.interval_us = request.interval_us;
            vm.copy = Some(CopyProgress { round: 1, copied_bytes: 100 << 20, remaining_bytes: 300 << 20 });
            Ok(())
        })
    }

    fn unprotect(&self, name: &VmName) -> Result<(), ApiError> {
        self.change(name, "unprotect".into(), |_, _| Ok(()))
    }

    fn stop(&self, name: &VmName) -> Result<(), ApiError> {
        self.change(name, "stop".into(), |state, at| {
            state.vms.remove(at);
            Ok(())
        })
    }

    fn failover(&self, name: &VmName) -> Result<(), ApiError> {
        self.change(name, "failover".into(), |state, at| match state.vms[at].phase.as_str() {
            "protected" => Ok(()),
            _ => Err(refused("VM web has no backup: protect it first")),
        })
    }

    fn migrate(&self, name: &VmName, request: MigrateRequest) -> Result<(), ApiError> {
        let call = format!("migrate to={} ceiling={:?}", request.to, request.limits.rate_ceiling);
        self.change(name, call, |state, at| {
            if request.to.as_str() == "nowhere" {
                return Err(refused("VM web is being migrated to beta"));
            }
            // Gone at once.
            state.vms.remove(at);
            Ok(())
        })
    }

    fn cancel_migration(&self, name: &VmName) -> Result<(), ApiError> {
        self.change(name, "cancel_migration".into(), |_, _| Err(refused("VM web is not being migrated")))
    }

    fn epochs(&self, name: &VmName, since_at_us: u64) -> Result<Vec<EpochRecord>, ApiError> {
        let record = |epoch: u64| EpochRecord {
            term: 7,
            epoch,
            at_us: 1_700_000_000_000_000 + epoch * 25_000,
            pause_us: 1_800,
            dirty_pages: 300,
            ahead_pages: 0,
            wire_bytes: 123_456,
            ack_us: 4_000,
        };
        self.change(name, "epochs".into(), |_, _| {
            Ok((1..=3).map(record).filter(|record| record.at_us >= since_at_us).collect())
        })
    }

    fn events(&self, after_seq: u64) -> Vec<EventRecord> {
        let state = self.state.lock().unwrap();
        state.events.iter().filter(|event| event.seq > after_seq).cloned().collect()
    }

    fn wait_events(&self, after_seq: u64, timeout: Duration) -> Vec<EventRecord> {
        let state = self.state.lock().unwrap();
        let none = |state: &mut State| state.events.len() as u64 <= after_seq;
        drop(self.more.wait_timeout_while(state, timeout, none).unwrap());
        self.events(after_seq)
    }
}
