//! Owns the part about Redis in the guest, over the network: how many requests a second.

use super::super::Run;
use super::super::figures::{Cell, Findings, Table, Target};
use super::guest::{HOST, How, Place};
use anyhow::{Context, Result};
use api::summary::Summary;
use lab::client::redis_benchmark;
use lab::guest::cache::Cache;
use lab::guest::redis::REDIS_PORT;
use lab::guest::riscv::RiscvGuest;
use lab::topology::{GuestAddress, Lab};
use std::net::{IpAddr, SocketAddr};

const ROUNDS: usize = 3;
/// Requests, connections, and how many requests each keeps waiting.
const LOADS: [(u64, u32, u32); 2] = [(2_000, 1, 1), (20_000, 8, 16)];
/// What is counted: each load's SET and GET.
const COUNTS: usize = 4;

/// The same clients for each way, each once in each round.
pub fn measure(run: &mut Run<'_>, found: &mut Findings) -> Result<()> {
    found.how = "Redis without a disk in the guest, a TAP on the lab's switch, `redis-benchmark` in the client's \
                 namespace: one connection with one request at a time, and 8 connections 16 requests deep. Requests a \
                 second by the wall clock."
        .into();
    let guest = RiscvGuest::build(&Cache::open()?)?;
    let lab = Lab::with_hosts("rvnet", &[HOST])?;
    let place = Place { lab: &lab, binary: &run.props.binary, guest: &guest };
    place.add_network()?;
    let rounds = run.times(ROUNDS);
    let mut rates: [[Vec<f64>; COUNTS]; 5] = Default::default();
    for round in 1..=rounds {
        for (how, rates) in How::ALL.into_iter().zip(&mut rates) {
            run.screen.live(&format!("round {round} of {rounds}: {}", how.name()));
            let running = place.start(how, true)?;
            // Each run of the machine draws its card's address anew.
            lab.forget_neighbours()?;
            for (rate, seen) in rates.iter_mut().zip(ask(&lab)?) {
                rate.push(seen);
            }
            running.end()?;
        }
    }
    tell(found, &rates);
    Ok(())
}

/// Requests a second: SET and GET of each load.
fn ask(lab: &Lab) -> Result<[f64; COUNTS]> {
    let target = SocketAddr::new(IpAddr::V4(GuestAddress::of(0).v4), REDIS_PORT);
    let mut rates = Vec::new();
    for (requests, connections, depth) in LOADS {
        let rows = redis_benchmark(lab.client(), target, requests, connections, depth)?;
        rates.extend(rows.iter().map(|row| row.requests_per_second));
    }
    rates.try_into().ok().context("redis-benchmark tells of SET and GET")
}

fn tell(found: &mut Findings, rates: &[[Vec<f64>; COUNTS]; 5]) {
    let mut table = Table::new(
        "Requests a second",
        &[
            ("how", "how"),
            ("set_alone", "SET, one at a time"),
            ("get_alone", "GET, one at a time"),
            ("set_many", "SET, 8 connections 16 deep"),
            ("get_many", "GET, 8 connections 16 deep"),
        ],
    );
    for (how, rates) in How::ALL.into_iter().zip(rates) {
        let cells = [0, 1, 2, 3].map(|count: usize| Cell::from(Summary::of(rates[count].iter().copied())));
        table.row(how.name(), cells);
    }
    found.tables.push(table);
    let pairs = [(How::Ours, How::Icount), (How::OursRecorded, How::IcountRecorded)];
    for (ours, theirs) in pairs {
        for (count, what) in [(2, "SET"), (3, "GET")] {
            let of = |how: How| &rates[how as usize][count];
            let ratio = Summary::of(of(ours).iter().zip(of(theirs)).map(|(one, other)| 100.0 * one / other));
            let aim = format!("{what}, 8 connections 16 deep: {} against {}", ours.name(), theirs.name());
            found.targets.extend(ratio.map(|ratio| Target::at_least(aim, "%", 100.0, ratio.median)));
        }
    }
}
