//! Owns connections to a PostgreSQL.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::{Client, Config, NoTls};

use super::ClientError;
use crate::guest::postgres::POSTGRES;
use crate::topology::Namespace;

/// No server takes so long to let somebody in.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Nothing that is asked here takes so long, on a busy machine and across a failover.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// A runtime on the thread that uses it: its sockets belong to the namespace of that thread.
pub fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Connects; what the connection needs done runs on this runtime while it waits for answers.
pub async fn connect(target: SocketAddr, name: &str) -> io::Result<Client> {
    let mut config = Config::new();
    config.hostaddr(target.ip()).port(target.port()).user(POSTGRES).dbname(POSTGRES);
    config.application_name(name).connect_timeout(CONNECT_PATIENCE).keepalives(false);
    let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
    // When it ends, whoever waits for an answer is told why.
    tokio::spawn(connection);
    Ok(client)
}

/// Connects from the client's namespace and asks something.
pub fn ask<T: Send>(
    client: &Namespace,
    target: SocketAddr,
    question: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error> + Send,
) -> Result<T, ClientError> {
    let work = || ask_here(target, question);
    client.run(work)?.map_err(|source| ClientError::Connection { what: "ask", target, source })
}

/// The same, in the namespace of the thread.
pub fn ask_here<T>(
    target: SocketAddr,
    question: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
) -> io::Result<T> {
    runtime()?.block_on(async {
        let client = connect(target, "check").await?;
        let answer = tokio::time::timeout(ANSWER_PATIENCE, question(&client)).await;
        answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(failed)
    })
}

/// An error of the client, with the server's own words.
pub fn failed(error: tokio_postgres::Error) -> io::Error {
    match error.as_db_error() {
        Some(said) => io::Error::other(format!("{}: {}", said.severity(), said.message())),
        None => io::Error::other(error),
    }
}
