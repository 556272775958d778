//! What the destination's QEMU reads is what the source's QEMU wrote, byte for byte: both are
//! recorded on their way between QEMU and the node.

use crate::stage::{Stage, end_of, slow_and_patient};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Record = Arc<Mutex<Vec<u8>>>;

#[test]
fn the_stream_arrives_byte_for_byte() {
    let stage = Stage::unattached(|config| config, |config| config);
    let (written, read) = (Record::default(), Record::default());
    let here = between(&stage.source.qmp_path(), "here.sock", &written);
    let there = between(&stage.destination.qmp_path(), "there.sock", &read);
    stage.here.attach_qemu("vm", &here, false).unwrap();
    stage.there.attach_qemu("vm", &there, true).unwrap();
    let report = end_of(&stage.migrate_directly(slow_and_patient()));
    stage.assert_moved(&report, &stage.destination);
    let (written, read) = (written.lock().unwrap(), read.lock().unwrap());
    assert!(written.len() > 16 << 20, "{} bytes were recorded", written.len());
    assert!(written.starts_with(b"QEVM"));
    let differs = written.iter().zip(read.iter()).position(|(one, other)| one != other);
    assert_eq!((written.len(), differs), (read.len(), None));
}

/// A QMP socket beside that of QEMU. It passes everything on, but has QEMU write to, or read from,
/// a socket that records.
fn between(qmp: &Path, name: &str, record: &Record) -> PathBuf {
    let path = qmp.with_file_name(name);
    let listener = UnixListener::bind(&path).unwrap();
    let (qmp, record) = (qmp.to_path_buf(), record.clone());
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // QEMU serves one at a time.
            let server = UnixStream::connect(&qmp).unwrap();
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass_on(from, to, &Record::default()));
            rewrite(&client, &server, &record);
            let _ = server.shutdown(std::net::Shutdown::Both);
        }
    });
    path
}

/// Commands to QEMU, with other sockets for its stream.
fn rewrite(client: &UnixStream, mut server: &UnixStream, record: &Record) {
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let mut command: Value = serde_json::from_str(&line).unwrap();
        let uri = command["arguments"]["uri"].as_str().map(str::to_owned);
        if let Some(path) = uri.as_deref().and_then(|uri| uri.strip_prefix("unix:")) {
            let other = format!("{path}.tee");
            // Whoever connects comes to the recorder: QEMU at the source, the node at the
            // destination.
            let (listens, onward) = match command["execute"].as_str() {
                Some("migrate") => (other.clone(), path.to_owned()),
                _ => (path.to_owned(), other.clone()),
            };
            tee(&listens, onward, record.clone());
            command["arguments"]["uri"] = format!("unix:{other}").into();
        }
        if writeln!(server, "{command}").is_err() {
            return;
        }
    }
}

fn tee(listens: &str, onward: String, record: Record) {
    let listener = UnixListener::bind(listens).unwrap();
    std::thread::spawn(move || {
        let (from, _) = listener.accept().unwrap();
        let to = loop {
            match UnixStream::connect(&onward) {
                Ok(to) => break to,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        pass_on(from, to, &record);
    });
}

fn pass_on(mut from: UnixStream, mut to: UnixStream, record: &Record) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        record.lock().unwrap().extend_from_slice(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
