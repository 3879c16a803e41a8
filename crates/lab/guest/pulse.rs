//! The program inside the guest that makes a known amount of work, and says what it saw of its own time.
//!
//! `pulse serve [PAGES:RATE:PATTERN[,clock]]` answers one-line commands on TCP port 7007 (see `CONTROL` below),
//! and gives UDP datagrams to that port back as they came;
//! `pulse wait-redis` returns when the Redis of this guest answers. It is compiled alone, by `rustc`,
//! into a static binary, so it uses nothing but the standard library.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, ExitCode};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const PORT: u16 = 7007;
const CONTROL: &str = "commands: dirty PAGES:RATE:PATTERN | stop | count on|off | gaps on|off | clock on|off | stats | reset | check | hold PAGES | fio ARGUMENTS | fio off | disk | ping | reboot | poweroff | shutdown; \
RATE is pages a second, N/tick (a tick is 5 ms) or full; PATTERN is seq|random, with +page to fill whole pages";
/// A gap is a stretch of time in which this program did not run for at least this long.
const GAP_US: u64 = 1_000;
/// The guest's script that ends its server, unmounts its disk and switches it off.
const STOP: &str = "/stop";
const TICK: Duration = Duration::from_millis(5);
/// How often the machine's real-time clock is looked at: the moment of a new second is known as well as that.
const LOOK: Duration = Duration::from_micros(500);
/// The machine's real-time clock, in seconds since 1970 (Linux Documentation/admin-guide/rtc.rst).
const MACHINE_CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";

/// One guest page. Atomics, because relaxed stores are real stores that the compiler does not drop.
#[repr(align(4096))]
struct Page([AtomicU64; 512]);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rate {
    PerSecond(u64),
    PerTick(u64),
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Work {
    pages: usize,
    rate: Rate,
    random: bool,
    whole_page: bool,
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Work, String> {
        let bad = || format!("`{text}` is not PAGES:RATE:PATTERN; {CONTROL}");
        let mut parts = text.split(':');
        let (Some(pages), Some(rate), Some(pattern), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let pages = pages.parse().ok().filter(|&pages| pages > 0).ok_or_else(bad)?;
        let rate = match (rate, rate.strip_suffix("/tick")) {
            ("full", _) => Rate::Full,
            (_, Some(number)) => Rate::PerTick(number.parse().map_err(|_| bad())?),
            (number, None) => Rate::PerSecond(number.parse().map_err(|_| bad())?),
        };
        let (order, whole_page) = match pattern.strip_suffix("+page") {
            Some(order) => (order, true),
            None => (pattern, false),
        };
        match order {
            "seq" => Ok(Work { pages, rate, random: false, whole_page }),
            "random" => Ok(Work { pages, rate, random: true, whole_page }),
            _ => Err(bad()),
        }
    }
}

/// What the four workers are told to do. A worker without orders sleeps for good: an idle guest stays idle.
#[derive(Clone, Copy, Default)]
struct Orders {
    work: Option<Work>,
    /// Look through the pages once.
    check: bool,
    counting: bool,
    watching: bool,
    comparing: bool,
}

#[derive(Default)]
struct Shared {
    orders: Mutex<Orders>,
    changed: Condvar,
    /// What the last check found.
    checked: Mutex<Option<String>>,
    /// Grows with every change of the orders, so that a busy worker notices without taking the lock.
    change: AtomicU64,
    dirtied: AtomicU64,
    iterations: AtomicU64,
    gaps: AtomicU64,
    gap_total_us: AtomicU64,
    gap_longest_us: AtomicU64,
    /// The load on the disk.
    fio: Mutex<Option<Child>>,
    /// Memory that is in use and never touched again.
    held: Mutex<Vec<Page>>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["wait-redis"] => wait_redis(),
        ["serve"] => serve(PORT, None),
        ["serve", orders] => serve(PORT, Some(orders)),
        ["serve", "--port", port] => port.parse().map_err(|_| "bad port".into()).and_then(|port| serve(port, None)),
        _ => Err(format!("usage: pulse serve [PAGES:RATE:PATTERN[,clock]] | pulse wait-redis\n{CONTROL}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("pulse: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Asks Redis until it answers; gives up after two minutes.
fn wait_redis() -> Result<(), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 6379));
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(120) {
        if answers_ping(address).unwrap_or(false) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("redis did not answer within 120 s".into())
}

fn answers_ping(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    Ok(&reply == b"+PONG\r\n")
}

fn serve(port: u16, initial: Option<&str>) -> Result<(), String> {
    let shared = Arc::new(Shared::default());
    for job in [dirty_forever as fn(&Shared), count_forever, watch_forever, compare_forever] {
        let shared = Arc::clone(&shared);
        thread::spawn(move || job(&shared));
    }
    for order in initial.into_iter().flat_map(|orders| orders.split(',')) {
        match order {
            "clock" => answer("clock on", &shared),
            work => answer(&format!("dirty {work}"), &shared),
        };
    }
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|error| format!("cannot take datagrams on port {port}: {error}"))?;
    thread::spawn(move || echo(&datagrams));
    // One socket for both families; a guest without IPv6 still gets IPv4.
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
        .map_err(|error| format!("cannot listen on port {port}: {error}"))?;
    for stream in listener.incoming().flatten() {
        let shared = Arc::clone(&shared);
        thread::spawn(move || converse(&stream, &shared));
    }
    Ok(())
}

/// Gives each datagram back. A client that is gone is no reason to end.
fn echo(datagrams: &UdpSocket) {
    let mut room = [0; 2_048];
    loop {
        if let Ok((length, client)) = datagrams.recv_from(&mut room) {
            let _ = datagrams.send_to(&room[..length], client);
        }
    }
}

fn converse(stream: &TcpStream, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut writer = stream;
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let reply = answer(line.trim(), shared);
        if writer.write_all(format!("{reply}\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn answer(line: &str, shared: &Shared) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["dirty", work] => match work.parse::<Work>() {
            Ok(work) => order(shared, |orders| orders.work = Some(work)),
            Err(text) => format!("error {text}"),
        },
        ["stop"] => order(shared, |orders| orders.work = None),
        ["count", state @ ("on" | "off")] => order(shared, |orders| orders.counting = *state == "on"),
        ["gaps", state @ ("on" | "off")] => order(shared, |orders| orders.watching = *state == "on"),
        ["clock", state @ ("on" | "off")] => order(shared, |orders| orders.comparing = *state == "on"),
        ["stats"] => stats(shared),
        ["check"] => check(shared),
        ["hold", pages] => hold(shared, pages),
        ["fio", "off"] => fio(shared, &[]),
        ["fio", arguments @ ..] => fio(shared, arguments),
        ["disk"] => disk(),
        ["reset"] => {
            for number in
                [&shared.dirtied, &shared.iterations, &shared.gaps, &shared.gap_total_us, &shared.gap_longest_us]
            {
                number.store(0, Relaxed);
            }
            "ok".into()
        }
        ["ping"] => "pong".into(),
        // The magic keys act at once, as a reset button and a power switch do.
        ["reboot"] => magic_key("b"),
        ["poweroff"] => magic_key("o"),
        ["shutdown"] => shut_down(),
        _ => format!("error `{line}` is unknown; {CONTROL}"),
    }
}

fn order(shared: &Shared, change: impl FnOnce(&mut Orders)) -> String {
    match shared.orders.lock() {
        Ok(mut orders) => change(&mut orders),
        Err(_) => return "error a worker died".into(),
    }
    shared.change.fetch_add(1, Relaxed);
    shared.changed.notify_all();
    "ok".into()
}

/// Sleeps until the orders hold something for the caller; returns it with the number of the change it belongs to.
fn await_orders<T>(shared: &Shared, mine: impl Fn(&Orders) -> Option<T>) -> (T, u64) {
    let mut orders = shared.orders.lock().expect("no worker panics while it holds the orders");
    loop {
        let change = shared.change.load(Relaxed);
        if let Some(found) = mine(&orders) {
            return (found, change);
        }
        orders = shared.changed.wait(orders).expect("no worker panics while it holds the orders");
    }
}

fn magic_key(key: &str) -> String {
    match fs::write("/proc/sysrq-trigger", key) {
        Ok(()) => "ok".into(),
        Err(error) => format!("error /proc/sysrq-trigger: {error}"),
    }
}

/// Begins to switch the guest off in order, as its script does it.
fn shut_down() -> String {
    if !fs::exists(STOP).unwrap_or(false) {
        return format!("error this guest has no {STOP}");
    }
    match Command::new("/bin/busybox").args(["sh", STOP]).spawn() {
        Ok(_) => "ok".into(),
        Err(error) => format!("error /bin/busybox: {error}"),
    }
}

fn stats(shared: &Shared) -> String {
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0.0);
    format!(
        "uptime_ms={} dirtied={} iterations={} gaps={} gap_total_us={} gap_longest_us={}",
        (uptime * 1000.0) as u64,
        shared.dirtied.load(Relaxed),
        shared.iterations.load(Relaxed),
        shared.gaps.load(Relaxed),
        shared.gap_total_us.load(Relaxed),
        shared.gap_longest_us.load(Relaxed)
    )
}

/// Ends the fio that runs, and starts one with these arguments if there are any.
fn fio(shared: &Shared, arguments: &[&str]) -> String {
    let Ok(mut running) = shared.fio.lock() else { return "error a thread died".into() };
    if let Some(mut child) = running.take() {
        // Fails if it has ended by itself; then it is collected all the same.
        let _ = child.kill();
        let _ = child.wait();
    }
    if arguments.is_empty() {
        return "ok".into();
    }
    match Command::new("/bin/fio").args(arguments).spawn() {
        Ok(child) => {
            *running = Some(child);
            "ok".into()
        }
        Err(error) => format!("error /bin/fio: {error}"),
    }
}

/// Takes so many pages of zeros from the guest's memory, and leaves them alone.
fn hold(shared: &Shared, pages: &str) -> String {
    let (Ok(pages), Ok(mut held)) = (pages.parse(), shared.held.lock()) else {
        return format!("error {pages:?} pages; {CONTROL}");
    };
    held.reserve_exact(pages);
    while held.len() < pages {
        held.push(Page([const { AtomicU64::new(0) }; 512]));
    }
    "ok".into()
}

/// What the kernel counted of the first disk (Linux Documentation/block/stat.rst).
fn disk() -> String {
    match fs::read_to_string("/sys/block/vda/stat") {
        Ok(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Err(error) => format!("error /sys/block/vda/stat: {error}"),
    }
}

/// Stops the dirtying and has its pages looked through.
fn check(shared: &Shared) -> String {
    if let Ok(mut checked) = shared.checked.lock() {
        *checked = None;
    }
    order(shared, |orders| (orders.work, orders.check) = (None, true));
    loop {
        thread::sleep(TICK);
        match shared.checked.lock() {
            Ok(mut checked) => {
                if let Some(found) = checked.take() {
                    return found;
                }
            }
            Err(_) => return "error a worker died".into(),
        }
    }
}

/// Looks whether the newest `written` whole pages, written in order up to `last`, are what was written there.
///
/// A page that a checkpoint left out is of an earlier round, and one from two moments is no sequence.
fn look_through(memory: &[Page], last: usize, newest: u64, written: u64) -> String {
    let pages = memory.len() as u64;
    let count = written.min(pages);
    for back in 0..count {
        let page = (last as u64 + pages - back % pages) % pages;
        let mut word = newest - back;
        if !memory[page as usize].0.iter().all(|slot| slot.load(Relaxed) == xorshift(&mut word)) {
            return format!("error page {page}, written {back} pages before the newest, is not what was written");
        }
    }
    format!("ok {count}")
}

fn dirty_forever(shared: &Shared) {
    let mut memory: Vec<Page> = Vec::new();
    let mut random: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut next = 0;
    let mut value = 1;
    // Whole pages written in order, since the order was given.
    let mut in_order = 0;
    loop {
        let (work, seen) = await_orders(shared, |orders| (orders.check || orders.work.is_some()).then_some(orders.work));
        let Some(work) = work else {
            let found = look_through(&memory, next, u64::wrapping_sub(value, 1), in_order);
            if let (Ok(mut orders), Ok(mut checked)) = (shared.orders.lock(), shared.checked.lock()) {
                orders.check = false;
                *checked = Some(found);
            }
            continue;
        };
        in_order = 0;
        resize(&mut memory, work.pages);
        let began = Instant::now();
        let mut done = 0;
        // Each round is one tick (or, at full speed, one batch): do what is owed, then sleep.
        while shared.change.load(Relaxed) == seen {
            let owed = match work.rate {
                Rate::Full => 256,
                Rate::PerTick(pages) => pages,
                Rate::PerSecond(rate) => {
                    let due = began.elapsed().as_micros() as u64 * rate / 1_000_000;
                    // After a long pause the guest does not try to catch up on more than a second.
                    let owed = due.saturating_sub(done).min(rate);
                    done = due;
                    owed
                }
            };
            for _ in 0..owed {
                next = if work.random { xorshift(&mut random) as usize } else { next + 1 } % work.pages;
                touch(&memory[next], value, work.whole_page);
                value = value.wrapping_add(1);
                in_order = if work.random || !work.whole_page { 0 } else { in_order + 1 };
            }
            shared.dirtied.fetch_add(owed, Relaxed);
            if work.rate != Rate::Full {
                thread::sleep(TICK);
            }
        }
    }
}

/// Grows or shrinks the working set, and touches new pages so that later writes hit present memory.
fn resize(memory: &mut Vec<Page>, pages: usize) {
    memory.truncate(pages);
    memory.reserve_exact(pages - memory.len());
    while memory.len() < pages {
        let number = memory.len() as u64 + 1;
        memory.push(Page(std::array::from_fn(|word| AtomicU64::new(number * 512 + word as u64))));
    }
}

fn touch(page: &Page, value: u64, whole: bool) {
    if whole {
        let mut word = value;
        for slot in &page.0 {
            slot.store(xorshift(&mut word), Relaxed);
        }
    } else {
        page.0[(value % 512) as usize].store(value, Relaxed);
    }
}

fn xorshift(state: &mut u64) -> u64 {
    *state = (*state).max(1);
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn count_forever(shared: &Shared) {
    let mut state = 1;
    loop {
        let ((), seen) = await_orders(shared, |orders| orders.counting.then_some(()));
        while shared.change.load(Relaxed) == seen {
            for _ in 0..1_000 {
                std::hint::black_box(xorshift(&mut state));
            }
            shared.iterations.fetch_add(1_000, Relaxed);
        }
    }
}

/// Reads the clock without a break: a jump is time in which the guest, or this program, was not running.
fn watch_forever(shared: &Shared) {
    loop {
        let ((), seen) = await_orders(shared, |orders| orders.watching.then_some(()));
        let mut last = Instant::now();
        while shared.change.load(Relaxed) == seen {
            let now = Instant::now();
            let gap = now.duration_since(last).as_micros() as u64;
            last = now;
            if gap >= GAP_US {
                shared.gaps.fetch_add(1, Relaxed);
                shared.gap_total_us.fetch_add(gap, Relaxed);
                shared.gap_longest_us.fetch_max(gap, Relaxed);
            }
        }
    }
}

/// Compares the clock of this guest, which stands still whenever the guest does, with the machine's real-time clock,
/// which QEMU takes from its host and which goes on. At each new second it says `CLOCK SECONDS LOST` on the console: seconds
/// that the machine's clock has counted since the first one seen, and microseconds by which this guest's own is behind.
fn compare_forever(shared: &Shared) {
    loop {
        let ((), seen) = await_orders(shared, |orders| orders.comparing.then_some(()));
        if let Err(error) = compare(shared, seen) {
            println!("CLOCK cannot be read: {error}");
            order(shared, |orders| orders.comparing = false);
        }
    }
}

fn compare(shared: &Shared, seen: u64) -> io::Result<()> {
    let second = || -> io::Result<u64> {
        let text = fs::read_to_string(MACHINE_CLOCK)?;
        text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, text))
    };
    let (mut last, mut first) = (second()?, None);
    while shared.change.load(Relaxed) == seen {
        let (this, now) = (second()?, Instant::now());
        if this != last {
            // Counting begins with the first new second: when the one before began is not known.
            let (began, zero) = *first.get_or_insert((now, this));
            let (counted, own) = (this.saturating_sub(zero), now.duration_since(began).as_micros());
            println!("CLOCK {counted} {}", counted as i64 * 1_000_000 - own as i64);
            last = this;
        }
        thread::sleep(LOOK);
    }
    Ok(())
}
