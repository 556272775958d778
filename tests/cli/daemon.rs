//! `dwcpd` as a process: start, stop, reload, and every way not to start.

use crate::stage::{Daemon, Process, Scratch, refusal, stdout, wait_until, write_config};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};

#[test]
fn it_starts_serves_and_stops_cleanly() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    let daemon = Daemon::start(&scratch, &config);
    let mode = std::fs::metadata(&daemon.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(stdout(&daemon.run(&["status"])).starts_with("node testling, libdwcp"));
    let mut stream = TcpStream::connect(&daemon.metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("dwcp_node_guests{role=\"source\"} 0") && text.ends_with("# EOF\n"));
    let socket = daemon.socket.clone();
    daemon.process.signal(libc::SIGTERM);
    assert!({ daemon.process }.0.wait().unwrap().success());
    assert!(!socket.exists());
    let log = std::fs::read_to_string(scratch.path("log/dwcp.log")).unwrap();
    assert!(log.contains("node: started") && log.contains("stopping on a signal"), "{log}");
}

#[test]
fn it_tells_the_service_manager() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    let manager = UnixDatagram::bind(scratch.path("notify")).unwrap();
    manager.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
    let mut command = Daemon::command(&scratch, &config);
    let process = Process::spawn(command.env("NOTIFY_SOCKET", scratch.path("notify")));
    let receive = || {
        let mut buffer = [0; 64];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(receive(), "READY=1");
    process.signal(libc::SIGINT);
    assert_eq!(receive(), "STOPPING=1");
    assert!(process.finish().0.success());
}

#[test]
fn a_reload_is_whole_or_refused() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "migration: {streams: 2}\n");
    let daemon = Daemon::start(&scratch, &config);
    let streams = || stdout(&daemon.run(&["config", "get", "migration.streams"]));
    let logged = |text: &str| stdout(&daemon.run(&["logs"])).contains(text).then_some(());
    assert_eq!(streams(), "2\n");
    write_config(&scratch, &config, "migration: {streams: 9}\nnonsense: 1\n");
    daemon.process.signal(libc::SIGHUP);
    wait_until("the refusal is logged", || {
        logged("c.yaml:11:1: unknown section \\\"nonsense\\\"").or(logged("c.yaml:11:1: unknown"))
    });
    assert_eq!(streams(), "2\n");
    write_config(&scratch, &config, "migration: {streams: 9}\n");
    daemon.process.signal(libc::SIGHUP);
    wait_until("the reload is logged", || logged("reloaded; changed: migration.streams"));
    assert_eq!(streams(), "9\n");
}

#[test]
fn a_bad_file_is_refused_with_every_place() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "migration:\n  steams: 2\n  codec: zip\n");
    for flag in [&["--check-config"][..], &[]] {
        let output = Daemon::command(&scratch, &config).args(flag).output().unwrap();
        let text = refusal(&output, 1);
        assert!(
            text.contains(
                "c.yaml:11:3: unknown key \"migration.steams\"; did you mean migration.streams?"
            ),
            "{text}"
        );
        assert!(text.contains("c.yaml:12:10: migration.codec: codec \"zip\" is none of"), "{text}");
    }
    write_config(&scratch, &config, "");
    let output = Daemon::command(&scratch, &config).arg("--check-config").output().unwrap();
    assert!(stdout(&output).ends_with("c.yaml: ok\n"));
    let missing = Daemon::command(&scratch, &scratch.path("none.yaml")).output().unwrap();
    assert!(refusal(&missing, 1).contains("no configuration file"));
    let output =
        Daemon::command(&scratch, &config).env("DWCP_MIGRATION_STREAMS", "x").output().unwrap();
    assert!(refusal(&output, 1).contains("DWCP_MIGRATION_STREAMS: \"x\" is not a whole number"));
}

#[test]
fn taken_ports_and_sockets_are_named() {
    let scratch = Scratch::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["metrics_listen", "listen"] {
        let config = scratch.path("port.yaml");
        let root = scratch.0.display();
        let text =
            format!("node: {{{key}: '{address}', state_dir: {root}/s, log_dir: {root}/l}}\n");
        std::fs::write(&config, text).unwrap();
        let mut command = Daemon::command(&scratch, &config);
        if key == "listen" {
            command.env("DWCP_NODE_METRICS_LISTEN", "none");
            command.env("DWCP_SECURITY_TRANSPORT", "plain");
        }
        let text = refusal(&command.output().unwrap(), 1);
        assert!(text.contains(&address) && text.contains("in use"), "{key}: {text}");
        assert!(!scratch.path("s.sock").exists());
    }
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    let listener = UnixListener::bind(scratch.path("s.sock")).unwrap();
    let output = Daemon::command(&scratch, &config).output().unwrap();
    assert!(refusal(&output, 1).contains("s.sock is in use by another process"));
    drop(listener);
    // What is left of a dead process is in nobody's way.
    drop(Daemon::start(&scratch, &config));
}

#[test]
fn a_log_directory_that_cannot_be_written_is_replaced_by_the_state_directory() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    std::fs::write(scratch.path("log"), "a file, no directory").unwrap();
    let daemon = Daemon::start(&scratch, &config);
    let log = std::fs::read_to_string(scratch.path("state/dwcp.log")).unwrap();
    assert!(log.contains("node testling accepts migrations"), "{log}");
    assert!(stdout(&daemon.run(&["logs", "--level", "warn"])).contains("no log file in"));
}
