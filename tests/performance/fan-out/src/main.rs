//! Opens SSE readers on a stream, and reports when an append has reached the last of them.
//!
//! One thread for all of it: with a thousand readers a generator that does more for each arrival
//! would be what is measured.

#![forbid(unsafe_code)]
#![allow(
    clippy::print_stdout,
    reason = "a command speaks to the one who typed it"
)]

use std::cell::{Cell, RefCell};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, timeout};

/// What comes at the latest; beyond, a reader counts as lost.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// What one reader keeps of what it has read, so that a mark that comes in two parts is found.
const KEPT_BYTES: usize = 32;

/// Opens live readers on a stream of text that is empty, and prints what was measured as one line
/// of JSON
#[derive(Parser)]
struct Arguments {
    /// Where the server listens
    #[arg(long)]
    address: SocketAddr,
    /// The stream's path
    #[arg(long)]
    path: String,
    #[arg(long)]
    readers: usize,
    /// How many appends of 100 bytes, each after the one before has come to every reader
    #[arg(long, default_value_t = 0)]
    appends: usize,
    /// After how many seconds no more appends are made
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Between an arrival at the last reader and the next append
    #[arg(long, default_value_t = 2)]
    pause_ms: u64,
    /// With no appends: print "ready" when all readers are at the tail, and keep them until the end
    /// of the standard input
    #[arg(long)]
    hold: bool,
}

/// What all readers know.
#[derive(Default)]
struct Shared {
    /// What is to come next, in the text of an append.
    mark: RefCell<Vec<u8>>,
    /// How many have not got it.
    missing: Cell<usize>,
    last: Cell<Option<Instant>>,
    complete: Notify,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let line = LocalSet::new().block_on(&runtime, run(&arguments))?;
    println!("{line}");
    Ok(())
}

async fn run(arguments: &Arguments) -> Result<serde_json::Value> {
    let shared = Rc::new(Shared::default());
    let mut tasks = JoinSet::new();
    for _ in 0..arguments.readers {
        let socket = attach(arguments)
            .await
            .context("a reader has not come to the tail")?;
        tasks.spawn_local(watch(socket, Rc::clone(&shared)));
    }
    if arguments.hold {
        println!("ready");
        let ended = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            ended = ended => drop(ended??),
            broken = tasks.join_next() => bail!("a reader has ended: {broken:?}"),
        }
        return Ok(json!({ "readers": arguments.readers }));
    }
    let mut writer = connect(arguments.address).await?;
    let mut lasts = Vec::new();
    let mut answers = Vec::new();
    let began = Instant::now();
    for index in 0..arguments.appends {
        if began.elapsed().as_secs_f64() > arguments.seconds {
            break;
        }
        let mark = format!("<{index}>");
        let text = format!("{mark:x<100}");
        shared.mark.replace(mark.into_bytes());
        shared.missing.set(arguments.readers);
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{text}",
            arguments.path,
            arguments.address,
            text.len()
        );
        let begun = Instant::now();
        send(&writer, request.as_bytes()).await?;
        let answered = async {
            let status = answer(&mut writer).await?;
            ensure!(
                (200..300).contains(&status),
                "an append was answered {status}"
            );
            Ok(begun.elapsed())
        };
        let arrived = async {
            shared.complete.notified().await;
            Ok(())
        };
        let both = timeout(ARRIVAL_TIMEOUT, async {
            tokio::try_join!(answered, arrived)
        });
        tokio::select! {
            both = both => match both {
                Ok(both) => answers.push(milliseconds(both?.0)),
                Err(_) => bail!("{} of {} readers got nothing of append {index}", shared.missing.get(), arguments.readers),
            },
            broken = tasks.join_next() => bail!("a reader has ended: {broken:?}"),
        }
        let last = shared
            .last
            .get()
            .context("no reader got the last message")?;
        lasts.push(milliseconds(last - begun));
        sleep(Duration::from_millis(arguments.pause_ms)).await;
    }
    Ok(json!({ "readers": arguments.readers, "last_ms": lasts, "answer_ms": answers }))
}

/// Opens a reader, and reads until it is up to date.
async fn attach(arguments: &Arguments) -> Result<TcpStream> {
    let socket = connect(arguments.address).await?;
    let request = format!(
        "GET {}?offset=-1&live=sse HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
        arguments.path, arguments.address
    );
    send(&socket, request.as_bytes()).await?;
    let mut answer = Vec::new();
    let attached = async {
        while !contains(&answer, b"upToDate") {
            read(&socket, &mut answer).await?;
            let text = answer.get(..12).unwrap_or(b"HTTP/1.1 200");
            ensure!(
                text == b"HTTP/1.1 200",
                "a reader was answered {}",
                String::from_utf8_lossy(text)
            );
        }
        Ok(())
    };
    timeout(ARRIVAL_TIMEOUT, attached).await??;
    Ok(socket)
}

/// Looks for the marks, each of which is to come once.
async fn watch(socket: TcpStream, shared: Rc<Shared>) -> Result<()> {
    let mut text = Vec::new();
    let mut found = Vec::new();
    loop {
        read(&socket, &mut text).await?;
        let mark = shared.mark.borrow();
        if contains(&text, &mark) {
            ensure!(*found != **mark, "a reader got a mark twice");
            found.clone_from(&mark);
            text.clear();
            let missing = shared.missing.get() - 1;
            shared.missing.set(missing);
            if missing == 0 {
                shared.last.set(Some(Instant::now()));
                shared.complete.notify_one();
            }
        } else {
            text.drain(..text.len().saturating_sub(KEPT_BYTES));
        }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn send(socket: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Adds what has come to `text`.
async fn read(socket: &TcpStream, text: &mut Vec<u8>) -> Result<()> {
    let mut part = [0; 4_096];
    loop {
        socket.readable().await?;
        match socket.try_read(&mut part) {
            Ok(0) => bail!("the server has closed the connection"),
            Ok(length) => {
                text.extend_from_slice(&part[..length]);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns the status of an answer that has no body.
async fn answer(socket: &mut TcpStream) -> Result<u16> {
    let mut text = Vec::new();
    while !contains(&text, b"\r\n\r\n") {
        read(socket, &mut text).await?;
    }
    let status = text.get(9..12).context("the answer has no status")?;
    Ok(std::str::from_utf8(status)?.parse()?)
}

fn contains(text: &[u8], mark: &[u8]) -> bool {
    !mark.is_empty() && text.windows(mark.len()).any(|window| window == mark)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
