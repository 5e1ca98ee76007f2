// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How a connection begins: TLS, if it is asked for, and a hello in each direction.
//!
//! The socket was connected by somebody else, and is any stream socket. Who connects and does not say hello within
//! [`GREETING`] is nobody.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::migration::frame::{Hello, Kind};
use ipc::protocol::budget::mover::{GREETING, STALL};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf, split};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::lane::{LaneError, Receiver, Sender};

/// A connection, whatever is below it.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Both directions of a lane.
pub struct Ends {
    /// What comes.
    pub receiver: Receiver<ReadHalf<Box<dyn Connection>>>,
    /// What goes.
    pub sender: Sender<WriteHalf<Box<dyn Connection>>>,
}

/// What is done with a socket before it is a connection.
#[derive(Clone)]
pub enum Securing {
    /// Nothing.
    Plain,
    /// TLS, as the end that has connected, to a host of this name.
    Connecting(Arc<ClientConfig>, ServerName<'static>),
    /// TLS, as the end that was connected to.
    Accepting(Arc<ServerConfig>),
}

/// Why a connection is none.
#[derive(Debug, Error)]
pub enum GreetingError {
    /// TLS did not come about.
    #[error("TLS with the other host: {0}")]
    Tls(io::Error),
    /// What came first is no frame, or nothing came.
    #[error("before hello: {0}")]
    Lane(#[from] LaneError),
    /// It was closed.
    #[error(
        "the other host has closed the connection before it said hello: it takes another migration, or none; its log \
         says more"
    )]
    Closed,
    /// It says nothing.
    #[error("the other host does not say hello")]
    Silent,
    /// It means another connection.
    #[error("the other host says hello to lane {} of {} of migration {}, this is another one", .0.lane, .0.lane_count, .0.migration)]
    Other(Hello),
}

impl Securing {
    /// Makes a connection of a connected, non-blocking stream socket. To be called within a runtime.
    ///
    /// # Errors
    /// If it is none, or TLS does not come about in time.
    pub async fn open(&self, socket: OwnedFd) -> Result<Ends, GreetingError> {
        // Of any family: no call depends on it.
        let socket = std::os::unix::net::UnixStream::from(socket);
        let socket = UnixStream::from_std(socket).map_err(LaneError::Io)?;
        let secured = async {
            Ok::<Box<dyn Connection>, io::Error>(match self {
                Self::Plain => Box::new(socket),
                Self::Connecting(config, name) => {
                    Box::new(TlsConnector::from(Arc::clone(config)).connect(name.clone(), socket).await?)
                }
                Self::Accepting(config) => {
                    Box::new(TlsAcceptor::from(Arc::clone(config)).accept(socket).await?)
                }
            })
        };
        let secured = timeout(GREETING, secured).await.map_err(|_| GreetingError::Silent)?;
        let (from, to) = split(secured.map_err(GreetingError::Tls)?);
        Ok(Ends { receiver: Receiver::new(from), sender: Sender::new(to) })
    }
}

impl Ends {
    /// Says hello.
    ///
    /// # Errors
    /// The lane's.
    pub async fn say(&mut self, hello: Hello) -> Result<(), LaneError> {
        self.sender.send(Kind::Hello, |body| body.extend_from_slice(&hello.to_bytes())).await?;
        self.sender.flush().await
    }

    /// What the other end says first, within this span.
    ///
    /// # Errors
    /// If it is no hello, or none comes in time.
    pub async fn hear(&mut self, span: Duration) -> Result<Hello, GreetingError> {
        let first = timeout(span, self.receiver.next()).await.map_err(|_| GreetingError::Silent)?;
        match first? {
            Some((Kind::Hello, body)) => Ok(Hello::decode(body).map_err(LaneError::Stream)?),
            Some((kind, _)) => Err(LaneError::Unexpected(kind).into()),
            None => Err(GreetingError::Closed),
        }
    }

    /// Both, of the end that begins. The other end answers when all lanes are there.
    ///
    /// # Errors
    /// If the other end says nothing, or something else.
    pub async fn greet(&mut self, hello: Hello) -> Result<(), GreetingError> {
        self.say(hello).await?;
        let heard = self.hear(STALL).await?;
        if heard == hello { Ok(()) } else { Err(GreetingError::Other(heard)) }
    }
}
