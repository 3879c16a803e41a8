//! Measures what TLS costs a replication connection: megabytes a second and processor time, and round trips of small
//! frames, over loopback, plain and as hosts speak.
//!
//! `cargo run --release -p trust --example cost`

use protocol::HostName;
use std::error::Error;
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use trust::{Lifetime, Purpose, Receiver, Sender, Store, Wanted, accept, connect};

/// Bodies as pages make them: some 64 KiB; the header is the protocol's.
const HEAD: usize = 80;
const BODY: usize = 64 << 10;
const FRAMES: usize = 30_000;
const TRIPS: usize = 20_000;
const ROUNDS: usize = 3;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A connection's sending end, of either kind.
trait Sends: Send {
    fn send(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()>;
}

impl Sends for Sender {
    fn send(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        Sender::send(self, head, body)
    }
}

impl Sends for TcpStream {
    fn send(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        let done = self.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
        self.write_all(&[head, body].concat()[done..])
    }
}

/// Two ends, each with a half to read and a half to write.
type Ends<R, S> = [(R, S); 2];

fn sockets() -> Outcome<[TcpStream; 2]> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    let other = listener.accept()?.0;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    Ok([one, other])
}

fn plain() -> Outcome<Ends<TcpStream, TcpStream>> {
    let [one, other] = sockets()?;
    Ok([(one.try_clone()?, one), (other.try_clone()?, other)])
}

fn tls(stores: &[Store; 2]) -> Outcome<Ends<Receiver, Sender>> {
    let ([one, other], until) = (sockets()?, Instant::now() + Duration::from_secs(10));
    let (store, called) = (stores[0].clone(), stores[1].host().clone());
    let calling = std::thread::spawn(move || connect(one, &store, &called, Purpose::Replication, until));
    let into = accept(other, &stores[1], Wanted::Anyone, &[Purpose::Replication], until)?;
    let out = calling.join().map_err(|_| "a panic")??;
    Ok([out.split(), into.split()])
}

fn stream<R: Read + Send, S: Sends>(
    [(_held, mut sender), (mut receiver, _kept)]: Ends<R, S>,
) -> Outcome<f64> {
    let (head, body) = ([7; HEAD], (0..BODY).map(|at| (at * 31) as u8).collect::<Vec<_>>());
    let began = Instant::now();
    std::thread::scope(|scope| -> Outcome<()> {
        let sending = scope.spawn(move || -> Outcome<S> {
            (0..FRAMES).try_for_each(|_| sender.send(&head, &body))?;
            Ok(sender)
        });
        let (mut head, mut body) = ([0; HEAD], vec![0; BODY]);
        for _ in 0..FRAMES {
            receiver.read_exact(&mut head)?;
            receiver.read_exact(&mut body)?;
        }
        drop(sending.join().map_err(|_| "a panic")??);
        Ok(())
    })?;
    Ok((FRAMES * (HEAD + BODY)) as f64 / 1e6 / began.elapsed().as_secs_f64())
}

fn trips<R: Read + Send, S: Sends>(
    [(mut back, mut out), (mut into, mut answer)]: Ends<R, S>,
) -> Outcome<[f64; 2]> {
    let mut times = Vec::with_capacity(TRIPS);
    std::thread::scope(|scope| -> Outcome<()> {
        scope.spawn(move || -> Outcome<()> {
            let mut frame = [0; HEAD];
            for _ in 0..TRIPS {
                into.read_exact(&mut frame)?;
                answer.send(&frame, &[])?;
            }
            Ok(())
        });
        let mut frame = [1; HEAD];
        for _ in 0..TRIPS {
            let began = Instant::now();
            out.send(&frame, &[])?;
            back.read_exact(&mut frame)?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        Ok(())
    })?;
    times.sort_by(f64::total_cmp);
    Ok([times[TRIPS / 2], times[TRIPS * 99 / 100]])
}

fn main() -> Outcome<()> {
    let place = std::env::temp_dir().join(format!("trust-cost-{}", std::process::id()));
    let store = |host: &str| -> Outcome<Store> { Ok(Store::new(&place.join(host), &HostName::new(host)?)) };
    let stores = [store("alpha")?, store("beta")?];
    for (one, other) in [(&stores[0], &stores[1]), (&stores[1], &stores[0])] {
        other.trust(one.host(), &one.init(Lifetime::default())?)?;
    }
    for _ in 0..ROUNDS {
        println!("plain: {:6.0} MB/s; TLS: {:6.0} MB/s", stream(plain()?)?, stream(tls(&stores)?)?);
        let ([plain, plain99], [tls, tls99]) = (trips(plain()?)?, trips(self::tls(&stores)?)?);
        println!(
            "round trip, median and p99: plain {plain:.1} and {plain99:.1} µs; TLS {tls:.1} and {tls99:.1} µs"
        );
    }
    let began = Instant::now();
    (0..100).try_for_each(|_| self::tls(&stores).map(drop))?;
    println!("handshake, both sides, files and all: {:.2} ms", began.elapsed().as_secs_f64() * 1e3 / 100.0);
    std::fs::remove_dir_all(place)?;
    Ok(())
}
