// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connections to another host, for a migration: dialled and accepted with the user's rights, and handed over.
//!
//! Whoever accepts says [`GREETING`] first, and whoever dials hands no connection over that does not begin with it: a
//! coordinator that was taken over can ask for a connection to any address, and is given one to a `bulkhead receive` or
//! none. More is not read or written here. Connections are not encrypted here, but by the mover: where it does not, TCP
//! stays on this host, unless the user says otherwise.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener, lookup_host};
use tokio::time::timeout;

use super::runtime_dir;
use crate::printable;
use crate::problem::Problem;

/// What the end that accepts says first.
pub const GREETING: [u8; 20] = *b"bulkhead receives 1\n";

/// How far a TCP connection may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// To addresses of loopback: what travels is in the clear.
    Loopback,
    /// Anywhere: TLS is spoken on it, or the user calls the network secure.
    Anywhere,
}

impl Reach {
    /// Of connections with or without TLS.
    pub const fn of(has_tls: bool, insecure: bool) -> Self {
        if has_tls || insecure { Self::Anywhere } else { Self::Loopback }
    }

    /// Refuses an address from which anybody on the way could read guest RAM, and write it.
    fn check(self, address: SocketAddr) -> io::Result<()> {
        if self == Self::Anywhere || address.ip().is_loopback() {
            return Ok(());
        }
        let why = "in the clear a guest does not leave this host: give --tls-ca, --tls-cert, --tls-key and --tls-peer \
                   at both ends, an address of loopback with a tunnel behind it, or --insecure";
        Err(io::Error::new(ErrorKind::PermissionDenied, why))
    }
}

/// For a connection, and the greeting on it.
const DIAL_SPAN: Duration = Duration::from_secs(10);
/// How long a TCP connection may be silent before it is asked whether its other end is there, and for all answers.
const PROBE_SPAN: Duration = Duration::from_secs(10);
const LOST_MS: u32 = 30_000;

/// Where another host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port: `HOST:PORT`.
    Tcp(String),
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an address is `unix:PATH` or `HOST:PORT`")]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        match text.strip_prefix("unix:") {
            Some("") => Err(NoAddress),
            Some(path) => Ok(Self::Unix(path.into())),
            None => match text.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Self::Tcp(text.to_owned()))
                }
                _ => Err(NoAddress),
            },
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", printable::path(path)),
            Self::Tcp(address) => f.write_str(&printable::line(address.as_bytes())),
        }
    }
}

/// Connects to a host that receives: a non-blocking stream socket, behind the greeting.
///
/// # Errors
/// If nobody is there, or somebody else.
pub async fn dial(to: &Address, reach: Reach) -> io::Result<OwnedFd> {
    let late = |_| io::Error::new(ErrorKind::TimedOut, "it does not answer");
    timeout(DIAL_SPAN, connect(to, reach)).await.map_err(late)?
}

async fn connect(to: &Address, reach: Reach) -> io::Result<OwnedFd> {
    let mut greeting = [0; GREETING.len()];
    match to {
        Address::Unix(path) => {
            let mut connection = tokio::net::UnixStream::connect(path).await?;
            connection.read_exact(&mut greeting).await.map_err(|_| stranger())?;
            check(greeting)?;
            Ok(connection.into_std()?.into())
        }
        Address::Tcp(address) => {
            let found: Vec<SocketAddr> = lookup_host(address.as_str()).await?.collect();
            found.iter().try_for_each(|address| reach.check(*address))?;
            let mut connection = TcpStream::connect(&found[..]).await?;
            watch_over(connection.as_fd())?;
            connection.read_exact(&mut greeting).await.map_err(|_| stranger())?;
            check(greeting)?;
            Ok(connection.into_std()?.into())
        }
    }
}

fn check(greeting: [u8; GREETING.len()]) -> io::Result<()> {
    if greeting == GREETING { Ok(()) } else { Err(stranger()) }
}

fn stranger() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "whoever listens there is no `bulkhead receive` of this release")
}

/// Small frames leave at once, and a host that is gone is noticed.
fn watch_over(connection: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&connection, true)?;
    sockopt::set_socket_keepalive(&connection, true)?;
    sockopt::set_tcp_keepidle(&connection, PROBE_SPAN)?;
    sockopt::set_tcp_user_timeout(&connection, LOST_MS)?;
    Ok(())
}

/// Where a guest is waited for.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Where it is.
    pub address: Address,
}

#[derive(Debug)]
enum Socket {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Listener {
    /// Binds it. With port 0 the kernel chooses one, which is in the address then.
    pub fn bind(address: &Address, reach: Reach) -> Result<Self, Problem> {
        let refuse = |error: io::Error| {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => "somebody else listens there: give another address",
                ErrorKind::PermissionDenied => {
                    "give an address that this user may listen on, or a path in a folder of this user's"
                }
                _ => "give another address with --listen",
            };
            Problem::usage(format!("no guest can be waited for: {error}"), address.to_string(), advice)
                .because_of(&error)
        };
        Self::try_bind(address, reach).map_err(refuse)
    }

    fn try_bind(address: &Address, reach: Reach) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let listener = bind_unix(path)?;
                // Who may connect is who may write it.
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                listener.set_nonblocking(true)?;
                Ok(Self { socket: Socket::Unix(listener), address: address.clone() })
            }
            Address::Tcp(text) => {
                let listener = std::net::TcpListener::bind(text.as_str())?;
                let bound = listener.local_addr()?;
                reach.check(bound)?;
                listener.set_nonblocking(true)?;
                Ok(Self { socket: Socket::Tcp(listener), address: Address::Tcp(bound.to_string()) })
            }
        }
    }

    /// Within a runtime: what connections are accepted from.
    ///
    /// # Errors
    /// The runtime's.
    pub fn accepting(&self) -> io::Result<Accepting> {
        Ok(match &self.socket {
            Socket::Unix(listener) => Accepting::Unix(UnixListener::from_std(listener.try_clone()?)?),
            Socket::Tcp(listener) => Accepting::Tcp(TcpListener::from_std(listener.try_clone()?)?),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address {
            // It may have been removed by hand.
            let _ = fs::remove_file(path);
        }
    }
}

/// Binds a socket file; one that nobody listens on any more is replaced.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match std::os::unix::net::UnixListener::bind(path) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
            match UnixStream::connect(path) {
                Err(refused) if is_socket && refused.kind() == ErrorKind::ConnectionRefused => {
                    fs::remove_file(path)?;
                }
                _ => return Err(error),
            }
            std::os::unix::net::UnixListener::bind(path)
        }
        bound => bound,
    }
}

/// A listener within a runtime.
#[derive(Debug)]
pub enum Accepting {
    /// Of a Unix socket.
    Unix(UnixListener),
    /// Of a TCP port.
    Tcp(TcpListener),
}

impl Accepting {
    /// The next connection, greeted: a non-blocking stream socket. Cancel-safe.
    ///
    /// # Errors
    /// If the host has no descriptors left, or whoever connected is gone already.
    pub async fn next(&self) -> io::Result<OwnedFd> {
        // There is room in the buffer of a new connection.
        match self {
            Self::Unix(listener) => {
                let (connection, _) = listener.accept().await?;
                if runtime_dir::may_connect(connection.as_fd()).is_none() {
                    return Err(ErrorKind::PermissionDenied.into());
                }
                greet(connection.try_write(&GREETING))?;
                Ok(connection.into_std()?.into())
            }
            Self::Tcp(listener) => {
                let (connection, _) = listener.accept().await?;
                watch_over(connection.as_fd())?;
                greet(connection.try_write(&GREETING))?;
                Ok(connection.into_std()?.into())
            }
        }
    }
}

fn greet(written: io::Result<usize>) -> io::Result<()> {
    if written? == GREETING.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests;
