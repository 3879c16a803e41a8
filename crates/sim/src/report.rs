//! Owns what a run says of itself: counts, so that a run that tests nothing is visible, and their summary over
//! many seeds.

use std::fmt;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Something that is counted in a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Count {
            $($(#[$doc])* $name),*
        }

        impl Count {
            /// Every count.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

counts! {
    /// Epochs committed by a backup.
    Epochs,
    /// Of them, epochs that changed the disk.
    EpochsWithDisk,
    /// Epochs committed when data of a later one was staged already.
    CommitsWithLaterStaged,
    /// Syncs of a backup's journal.
    Persists,
    /// Syncs that made more than one epoch durable.
    PersistsGrouped,
    /// Syncs that failed.
    PersistsFailed,
    /// Syncs that ended after their session.
    LatePersists,
    /// Promotions that cut from the journal what was not committed.
    JournalsCut,
    /// Records of a journal lost or torn by a power loss.
    RecordsLost,
    /// VMs started from a disk when no host had them any more.
    Recoveries,
    /// Of them, from the disk of a backup.
    RecoveriesFromBackup,
    /// Of them, from a journal with a torn or a missing record.
    RecoveriesFromTorn,
    /// First copies that looked only at what may differ.
    CopiesByDifference,
    /// First copies that compared everything.
    CopiesCompared,
    /// First copies to a disk of which nothing was there.
    CopiesWhole,
    /// Pieces that were compared and found equal.
    PiecesEqual,
    /// Pieces that were compared and sent.
    PiecesSent,
    /// Pieces that need not be looked at.
    PiecesSpared,
    /// Standbys that began with memory that was left of the VM there.
    Remnants,
    /// Pages of such memory that were found equal.
    RemnantPagesEqual,
    /// Pages that were found to differ and sent.
    RemnantPagesSent,
    /// Marks of migrations that a backup reached.
    MarksReached,
    /// Copies that came back with own writes that nobody acknowledged.
    OffersWithOwnWrites,
    /// Difference maps cleaned.
    MapsCleaned,
    /// Packets and console pieces that left a host.
    Outputs,
    /// Increments that the client saw acknowledged.
    AcknowledgedWrites,
    /// Frames handed to a reader.
    Frames,
    /// VMs that became protected.
    Protections,
    /// Tries to protect a VM again that nobody asked for.
    Repairs,
    /// First copies given up.
    ProtectFailed,
    /// VMs continued at their backup.
    Promotions,
    /// Promotions after silence.
    PromotionsAfterSilence,
    /// Promotions after the connection ended.
    PromotionsAfterDisconnect,
    /// Promotions that the old owner asked for, as planned.
    PlannedFailovers,
    /// VMs that were moved to another host and went on there.
    Migrations,
    /// Migrations of unprotected VMs that began.
    MigrationsBegun,
    /// Those that came to nothing before their checkpoint was sent; the VM ran on.
    MigrationsFailed,
    /// Those that were called off.
    MigrationsCancelled,
    /// Those whose only checkpoint was sent.
    Departures,
    /// Those that the owner took back behind it.
    DeparturesTakenBack,
    /// Copies to a host that shall be the backup in another one's place.
    ChangesBegun,
    /// Checkpoints that were taken for both.
    ChangesJoint,
    /// Backups that were changed while the VM stayed protected.
    Changes,
    /// Owners that lost one of the two behind the checkpoint of both.
    ChangesLost,
    /// Changes called off.
    ChangesCancelled,
    /// Promotions because the VM's process died under its owner.
    PromotionsAfterVmDeath,
    /// Planned failovers called off.
    HandoversFailed,
    /// Last epochs acknowledged but the owner took the VM back.
    HandoversTakenBack,
    /// Promotions that failed at the backup.
    PromotionsFailed,
    /// VMs that came back to the owner because the backup declined.
    Declined,
    /// Owners that went on unprotected after they lost their backup.
    WentOnUnprotected,
    /// Unprotect or stop granted with the backup still there.
    LeftOnPurpose,
    /// Unprotect or stop decided only after the link was lost.
    LeftAfterLoss,
    /// Owners that learnt that they are not.
    Fences,
    /// Backups that lost the claim.
    ClaimsLost,
    /// Questions that the arbiter did not answer while a claim was open.
    ArbiterSilent,
    /// Claims that needed more than one question.
    ClaimsRepeated,
    /// Old owners that woke up after the promotion.
    FrozenOwnersWoke,
    /// Old owners that had acknowledged output left when they woke up.
    FrozenOwnersWithAcks,
    /// Promotions that waited until the old owner could hold no lease any more.
    WaitedForLease,
    /// Owners that took their backup for lost because nothing came of it.
    BackupsSilent,
    /// Owners that were told by a backup that it does not hear them.
    Unheard,
    /// Events of ended sessions that reached a machine.
    StaleEvents,
    /// Epochs of which a part had come when the primary was lost.
    TornEpochs,
    /// Times the VM waited because its backup was slow.
    Throttled,
    /// Times the VM was slowed because its backup was.
    Slowed,
    /// Planned failovers asked for while throttled.
    FailoversWhileThrottled,
    /// Planned failovers asked for while a checkpoint was taken.
    FailoversDuringCheckpoint,
    /// Times a paused VM had to wait for the arbiter.
    ClaimedWhilePaused,
    /// Checkpoints that failed.
    CheckpointsFailed,
    /// Checkpoints left out, of a guest that did nothing.
    CheckpointsSpared,
    /// Backups given up because they stopped acknowledging.
    Stalled,
    /// Hellos refused.
    HellosRefused,
    /// Frames refused: damaged.
    RefusedDamaged,
    /// Frames refused: repeated, missing or out of order.
    RefusedOrder,
    /// Frames refused: of another session.
    RefusedForeign,
    /// VMs started.
    Starts,
    /// VMs that no host could continue: their last copy was lost.
    VmsLost,
    /// VMs ended on purpose.
    VmsEnded,
    /// Fault: an agent and its VM killed.
    FaultKill,
    /// Fault: a host lost its power.
    FaultPower,
    /// Fault: owner and backup die at once.
    FaultBothDie,
    /// Fault: a host frozen.
    FaultFreeze,
    /// Fault: an agent frozen, its VM not.
    FaultFreezeAgent,
    /// Fault: a link cut in both directions.
    FaultCut,
    /// Fault: a link cut in one direction.
    FaultCutOneWay,
    /// Fault: a link that is cut and heals again and again.
    FaultFlap,
    /// Fault: a link that loses long frames.
    FaultNarrow,
    /// Fault: a connection reset.
    FaultReset,
    /// Fault: a lost frame, made good after a while.
    FaultStall,
    /// Fault: a slow link.
    FaultSlow,
    /// Fault: a frame damaged, repeated, left out, moved or foreign.
    FaultFrame,
    /// Fault: a reader that is slow to post.
    FaultSlowReader,
    /// Fault: the arbiter out of reach.
    FaultArbiter,
    /// Fault: the VM's process died.
    FaultVmDeath,
    /// Fault: a standby died.
    FaultStandbyDeath,
    /// Fault: a journal's disk is full.
    FaultDiskFull,
    /// Fault: a journal's disk fails.
    FaultDiskError,
    /// Fault: a journal's disk is slow.
    FaultDiskSlow,
    /// The guest shut itself down.
    GuestShutdowns,
}

/// Counts of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Hash of everything that happened, in order: equal for equal commits and seeds.
    pub trace_hash: u64,
    /// How long the run took, in virtual microseconds.
    pub virtual_us: u64,
    /// In a trial: how long after the owner's death its backup suspected it, in virtual microseconds.
    pub detection_us: Option<u64>,
    counts: [u64; Count::ALL.len()],
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, trace_hash: 0, virtual_us: 0, detection_us: None, counts: [0; Count::ALL.len()] }
    }

    /// How often it happened.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    pub(crate) fn add(&mut self, count: Count, by: u64) {
        self.counts[count as usize] += by;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} hash {:016x} {} ms:", self.seed, self.trace_hash, self.virtual_us / 1_000)?;
        for &count in Count::ALL.iter().filter(|&&count| self.get(count) > 0) {
            write!(f, " {count:?}={}", self.get(count))?;
        }
        Ok(())
    }
}

/// Counts over many runs: for each, in how many seeds it happened and how often in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Runs.
    pub seeds: u64,
    /// Virtual microseconds in all.
    pub virtual_us: u64,
    seen: [(u64, u64); Count::ALL.len()],
}

impl Default for Summary {
    fn default() -> Self {
        Self { seeds: 0, virtual_us: 0, seen: [(0, 0); Count::ALL.len()] }
    }
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.virtual_us += report.virtual_us;
        for (seen, &count) in self.seen.iter_mut().zip(&report.counts) {
            *seen = (seen.0 + u64::from(count > 0), seen.1 + count);
        }
    }

    /// Adds the runs of another summary.
    pub fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.virtual_us += other.virtual_us;
        for (seen, more) in self.seen.iter_mut().zip(&other.seen) {
            *seen = (seen.0 + more.0, seen.1 + more.1);
        }
    }

    /// In how many seeds it happened, and how often in all.
    #[must_use]
    pub fn get(&self, count: Count) -> (u64, u64) {
        self.seen[count as usize]
    }

    /// What never happened: a fault mix that leaves something here does not test it.
    #[must_use]
    pub fn never(&self) -> Vec<Count> {
        Count::ALL.iter().copied().filter(|&count| self.get(count).0 == 0).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} seeds, {} virtual seconds", self.seeds, self.virtual_us / 1_000_000)?;
        writeln!(f, "{:28} {:>9} {:>12}", "", "in seeds", "in all")?;
        for &count in Count::ALL {
            let (seeds, all) = self.get(count);
            writeln!(f, "{:28} {seeds:>9} {all:>12}", format!("{count:?}"))?;
        }
        Ok(())
    }
}
