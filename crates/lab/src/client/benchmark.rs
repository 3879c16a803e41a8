//! Owns running `redis-benchmark` in the client's namespace and reading its table.

use std::net::SocketAddr;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::ClientError;
use crate::topology::Namespace;

/// No run takes so long unless the server is gone.
const PATIENCE_SECONDS: &str = "120";

/// One line of `redis-benchmark --csv`: latencies in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkRow {
    /// The command measured, such as `SET`.
    pub test: String,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Mean latency.
    pub mean_ms: f64,
    /// Smallest latency.
    pub min_ms: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// 95th percentile of the latency.
    pub p95_ms: f64,
    /// 99th percentile of the latency.
    pub p99_ms: f64,
    /// Largest latency.
    pub max_ms: f64,
}

/// Runs SET and GET with `requests` requests over `connections` connections, `depth` requests deep each.
///
/// # Errors
/// `redis-benchmark` is not installed, cannot reach the server, or prints what is not its table.
pub fn redis_benchmark(
    client: &Namespace,
    target: SocketAddr,
    requests: u64,
    connections: u32,
    depth: u32,
) -> Result<Vec<BenchmarkRow>, ClientError> {
    // It waits for ever for a server that has died: coreutils' timeout ends it.
    let mut command = Command::new("timeout");
    command
        .args([PATIENCE_SECONDS, "redis-benchmark"])
        .arg("-h")
        .arg(target.ip().to_string())
        .arg("-p")
        .arg(target.port().to_string());
    command.arg("-n").arg(requests.to_string()).arg("-c").arg(connections.to_string());
    command.arg("-P").arg(depth.to_string()).args(["-t", "set,get", "--csv"]);
    parse(&client.output(&mut command)?)
}

/// Reads the table; lines before its heading (warnings) are passed over.
fn parse(table: &str) -> Result<Vec<BenchmarkRow>, ClientError> {
    let rows = table.lines().skip_while(|line| !line.starts_with("\"test\""));
    let rows: Vec<BenchmarkRow> =
        rows.skip(1).filter(|line| !line.is_empty()).map(parse_row).collect::<Result<_, _>>()?;
    if rows.is_empty() { Err(ClientError::Benchmark(table.trim().to_owned())) } else { Ok(rows) }
}

fn parse_row(line: &str) -> Result<BenchmarkRow, ClientError> {
    let wrong = || ClientError::Benchmark(line.to_owned());
    // A test's name may hold commas ("LRANGE_100 (first 100 elements)" does not, but custom ones do): quotes separate.
    let cells: Vec<&str> = line.trim_matches('"').split("\",\"").collect();
    let [test, numbers @ ..] = cells.as_slice() else { return Err(wrong()) };
    let numbers: Vec<f64> =
        numbers.iter().map(|cell| cell.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    let [requests_per_second, mean_ms, min_ms, p50_ms, p95_ms, p99_ms, max_ms] = numbers[..] else {
        return Err(wrong());
    };
    Ok(BenchmarkRow {
        test: (*test).to_owned(),
        requests_per_second,
        mean_ms,
        min_ms,
        p50_ms,
        p95_ms,
        p99_ms,
        max_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_anything_else_refused() {
        let heading = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\"p95_latency_ms\",\
            \"p99_latency_ms\",\"max_latency_ms\"";
        let table = format!(
            "WARNING: x\n{heading}\n\"SET\",\"833.33\",\"1.2\",\"0.1\",\"1.1\",\"2.0\",\"3.0\",\"4.5\"\n"
        );
        let rows = parse(&table).expect("a table");
        assert_eq!((rows.len(), rows[0].test.as_str(), rows[0].max_ms), (1, "SET", 4.5));
        parse("Could not connect\n").expect_err("no table");
        parse(&format!("{heading}\n\"SET\",\"x\"\n")).expect_err("a bad row");
    }
}
