//! `metrics --listen`: an answer for each scrape, on loopback or on a socket in the file system.
//!
//! Rules kept here: nobody but this machine can ask, because the names of devices and disks are in
//! the answer; and the socket is gone when the command has ended.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tiny_http::{Header, Listener, Method, Request, Response, Server};

use super::text::{Format, collect};
use crate::failure::{Failure, wrong_usage};

/// The media types of the two formats.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers scrapes until a signal ends the command.
pub(super) fn serve(place: &str) -> Result<(), Failure> {
    let (listener, socket) = open(place)?;
    let server = Server::from_listener(listener, None)
        .map_err(|error| Failure::from(error.to_string()).context(place))?;
    let server = Arc::new(server);
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let theirs = server.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            theirs.unblock();
        }
    })?;
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        log::debug!("the service manager: {error}");
    }
    for request in server.incoming_requests() {
        answer(request);
    }
    if let Some(path) = socket {
        fs::remove_file(&path).map_err(|error| Failure::at(&path, error))?;
    }
    Ok(())
}

/// Opens an address, or makes a socket, whose path is returned.
fn open(place: &str) -> Result<(Listener, Option<PathBuf>), Failure> {
    if place.contains('/') {
        let path = Path::new(place);
        remove_stale(path).map_err(|error| Failure::at(path, error))?;
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => {
                let hint = "; give a path at which there is nothing, or end what listens there";
                Failure::from(error).context(format!("--listen {place}")).ending(hint)
            }
            _ => Failure::at(path, error),
        })?;
        return Ok((listener.into(), Some(path.to_owned())));
    }
    let Ok(address) = place.parse::<SocketAddr>() else {
        let hint = "an address and a port (127.0.0.1:9876), or the path of a socket";
        return Err(wrong_usage(format!("--listen {place}: must be {hint}")));
    };
    if !address.ip().is_loopback() {
        let hint = "the metrics name disks, and anybody could ask: have a proxy in front of it";
        return Err(wrong_usage(format!("--listen {place}: no loopback address; {hint}")));
    }
    let listener =
        TcpListener::bind(address).map_err(|error| Failure::from(error).context(place))?;
    Ok((listener.into(), None))
}

/// Removes a socket that a command has left which was killed.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn answer(request: Request) {
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    let answered = match (request.method(), path.as_str()) {
        (Method::Get | Method::Head, "/metrics") => {
            let format = wanted(&request);
            match collect(format) {
                Ok((text, problems)) => {
                    problems.iter().for_each(|why| log::warn!("{why}"));
                    let media = match format {
                        Format::Prometheus => PROMETHEUS,
                        Format::OpenMetrics => OPENMETRICS,
                    };
                    respond(request, 200, media, text)
                }
                Err(why) => {
                    log::error!("{why}");
                    respond(request, 500, "text/plain; charset=utf-8", format!("{why}\n"))
                }
            }
        }
        (Method::Get | Method::Head, _) => {
            let hint = "the metrics are at /metrics\n".to_owned();
            respond(request, 404, "text/plain; charset=utf-8", hint)
        }
        _ => respond(request, 405, "text/plain; charset=utf-8", "GET only\n".to_owned()),
    };
    if let Err(error) = answered {
        log::debug!("a scraper has gone: {error}");
    }
}

/// The format that a scraper prefers.
fn wanted(request: &Request) -> Format {
    let accepts = |header: &Header| {
        header.field.equiv("Accept")
            && header.value.as_str().contains("application/openmetrics-text")
    };
    match request.headers().iter().any(accepts) {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    }
}

fn respond(request: Request, status: u16, media: &str, text: String) -> io::Result<()> {
    let mut response = Response::from_string(text).with_status_code(status);
    if let Ok(header) = Header::from_bytes("Content-Type", media) {
        response.add_header(header);
    }
    request.respond(response)
}
