//! Owns how much processor time a thread, also one of another process, had and wanted, and whether it wants some now.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The account of one thread. A look at it is one read.
#[derive(Debug)]
pub struct ThreadTime {
    account: File,
    state: File,
}

impl ThreadTime {
    /// Opens the account of thread `tid` of process `pid`.
    ///
    /// # Errors
    /// If there is no such thread, or the kernel keeps no such accounts (`CONFIG_SCHED_INFO`).
    pub fn open(pid: u32, tid: u32) -> io::Result<Self> {
        let open = |what: &str| File::open(format!("/proc/{pid}/task/{tid}/{what}"));
        let thread = Self { account: open("schedstat")?, state: open("stat")? };
        thread.read()?;
        Ok(thread)
    }

    /// For how long the thread ran, or waited for a processor, since it began. Of a thread that runs at the moment the time
    /// since the last tick may be missing.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn read(&self) -> io::Result<Duration> {
        let mut text = [0; 80];
        let len = self.account.read_at(&mut text, 0)?;
        let text = std::str::from_utf8(&text[..len]).unwrap_or_default();
        parse(text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a thread's account"))
    }

    /// Whether it sleeps at this moment: neither runs nor waits for a processor.
    ///
    /// # Errors
    /// If the thread is gone.
    pub fn sleeps(&self) -> io::Result<bool> {
        let mut text = [0; 80];
        let len = self.state.read_at(&mut text, 0)?;
        let state = state(&text[..len])
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a thread's state"))?;
        Ok(state != b'R')
    }
}

/// (Linux Documentation/scheduler/sched-stats.rst: time on a processor and time waiting for one, in nanoseconds, and the
/// number of its turns.)
fn parse(text: &str) -> Option<Duration> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let (ran, waited) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Duration::from_nanos(ran) + Duration::from_nanos(waited))
}

/// (proc_pid_stat(5): the state follows the name, which is in parentheses and may hold some itself.)
fn state(text: &[u8]) -> Option<u8> {
    let end = text.iter().rposition(|&byte| byte == b')')?;
    text.get(end + 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    #[test]
    fn an_account_is_three_numbers() {
        assert_eq!(parse("1500 500 7\n"), Some(Duration::from_nanos(2_000)));
        assert_eq!(parse("1500"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_state_follows_the_name_whatever_that_is() {
        assert_eq!(state(b"7 (CPU 0/TCG) S 1 7"), Some(b'S'));
        assert_eq!(state(b"7 (a) R (b)) R 1"), Some(b'R'));
        assert_eq!(state(b"7 (cut"), None);
        assert_eq!(state(b""), None);
    }

    #[test]
    fn a_thread_that_works_is_charged_and_one_that_sleeps_is_not() {
        let (told, ids) = channel();
        let (go_on, wait) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let _ = told.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
            let _ = wait.recv();
            let mut sum = 0_u64;
            for number in 0..30_000_000_u64 {
                sum = std::hint::black_box(sum.wrapping_add(number));
            }
            let _ = told.send(0);
            let _ = wait.recv();
        });
        let account = ThreadTime::open(std::process::id(), ids.recv().unwrap()).unwrap();
        // It may have told its id before it slept.
        std::thread::sleep(Duration::from_millis(20));
        let before = account.read().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(account.read().unwrap(), before, "asleep");
        assert!(account.sleeps().unwrap());
        go_on.send(()).unwrap();
        // It works for some 10 ms at least; whoever looks may be kept from it for longer now and then.
        let seen = (0..1_000_000).find(|_| !account.sleeps().unwrap());
        assert!(seen.is_some(), "at work");
        ids.recv().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(account.read().unwrap() > before + Duration::from_millis(1), "it worked");
        go_on.send(()).unwrap();
        thread.join().unwrap();
        // Joined is who is about to leave the kernel; that takes another moment.
        let until = Instant::now() + Duration::from_secs(30);
        while account.read().is_ok() {
            assert!(Instant::now() < until, "it is gone");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
