//! `dev`: the Worker on this machine, under wrangler.

use crate::project::{Project, run};
use crate::{bundle, page};
use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(200);
/// How many times wrangler is checked after it was asked to end, before its processes are killed.
const GRACE_POLLS: u32 = 25;
const STATE: &str = ".wrangler/state";
/// The admin page with a link to a report. No deployment has this directory.
const LINKED_PAGE: &str = "target/admin-development";

pub(crate) fn serve(project: &Project, port: u16, report: Option<&Path>) -> Result<ExitCode> {
    // wrangler would silently take another port.
    if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        bail!("port {port} cannot be used: {error}");
    }
    page::build(project)?;
    bundle::build(project, None)?;
    run(project
        .wrangler()
        .args([
            "d1",
            "migrations",
            "apply",
            "durable-streams",
            "--local",
            "--persist-to",
            STATE,
        ])
        .env("CI", "true")
        .stdin(Stdio::null()))?;

    let assets = report
        .map(|report| link_report(project, report))
        .transpose()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&interrupted);
    ctrlc::set_handler(move || handler.store(true, Ordering::SeqCst))?;

    // It has its own process group, so that an interrupt from the terminal reaches this
    // program only, which passes it on once.
    let mut server = project
        .wrangler()
        .args([
            "dev",
            "--local",
            "--ip",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--persist-to",
            STATE,
        ])
        .args(assets.iter().flat_map(|assets| ["--assets", assets]))
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start wrangler")?;

    let mut announced = false;
    loop {
        if let Some(status) = server.try_wait()? {
            bail!("wrangler ended: {status}");
        }
        if interrupted.load(Ordering::SeqCst) {
            stop(&mut server)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !announced && answers(port) {
            announce(port);
            announced = true;
        }
        sleep(POLL);
    }
}

/// Serves a report to this machine, and builds an admin page that links to it. Returns the
/// directory of that page. The report has a port of its own, because the policy of the admin page
/// allows no scripts within a page.
#[expect(
    clippy::disallowed_methods,
    reason = "threads are forbidden where simulations run"
)]
fn link_report(project: &Project, report: &Path) -> Result<&'static str> {
    let page = fs::read(report).with_context(|| format!("cannot read {}", report.display()))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}/", listener.local_addr()?);
    page::build_linked(project, &project.path(LINKED_PAGE), &url)?;
    println!("The report {} is at {url}", report.display());
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // The browser may have gone.
            drop(answer(connection, &page));
        }
    });
    Ok(LINKED_PAGE)
}

/// Answers every request with a page.
fn answer(mut connection: TcpStream, page: &[u8]) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut head = [0; 4096];
    let _ = connection.read(&mut head)?;
    let length = page.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\
         Cache-Control: no-store\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(page)
}

fn announce(port: u16) {
    let url = format!("http://localhost:{port}/v1/stream");
    println!();
    println!("Streams are at {url}/<stream-id>. To try one:");
    println!();
    println!("  curl -X PUT -H 'Content-Type: application/json' {url}/first");
    println!(
        "  curl -X POST -H 'Content-Type: application/json' --data '{{\"hello\":\"world\"}}' {url}/first"
    );
    println!("  curl '{url}/first?offset=-1'");
    println!();
    println!("Ctrl-C ends the server.");
}

/// Returns whether a request that touches no stream is answered.
fn answers(port: u16) -> bool {
    let ask = || -> io::Result<bool> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut connection = TcpStream::connect_timeout(&address, POLL)?;
        connection.set_read_timeout(Some(Duration::from_secs(2)))?;
        connection.write_all(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 5];
        connection.read_exact(&mut start)?;
        Ok(&start == b"HTTP/")
    };
    ask().unwrap_or(false)
}

fn stop(server: &mut Child) -> Result<()> {
    let group = Pid::from_raw(i32::try_from(server.id())?);
    signal(group, Signal::SIGTERM)?;
    for _ in 0..GRACE_POLLS {
        if server.try_wait()?.is_some() {
            break;
        }
        sleep(POLL);
    }
    // The runtime does not always end with wrangler.
    signal(group, Signal::SIGKILL)?;
    server.wait()?;
    Ok(())
}

fn signal(group: Pid, signal: Signal) -> Result<()> {
    match killpg(group, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("cannot signal wrangler"),
    }
}
