//! Identities from the command line: made, shown, rotated, and used by daemons.

use crate::stage::{Daemon, Scratch, operator, refusal, stdout, wait_until, write_config};
use serde_json::Value;
use std::path::Path;

fn identity(scratch: &Scratch, args: &[&str]) -> std::process::Output {
    operator(&scratch.path("nobody.sock"), &[&["identity"], args].concat()).output().unwrap()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn an_authority_signs_shows_and_rotates_without_a_daemon() {
    let scratch = Scratch::new();
    let (authority, out) = (text(&scratch.path("authority")), text(&scratch.path("a")));
    assert!(stdout(&identity(&scratch, &["init", "--authority", &authority])).contains("secret"));
    let again = identity(&scratch, &["init", "--authority", &authority]);
    assert!(refusal(&again, 1).contains("authority.pem exists already"));
    let issue = ["issue", "host-a", "--host", "10.0.0.1", "--host", "a.example"];
    let to = ["--authority", &authority, "--out", &out];
    stdout(&identity(&scratch, &[&issue[..], &to].concat()));
    assert!(
        refusal(&identity(&scratch, &[&issue[..], &to].concat()), 1).contains("node.pem exists")
    );
    let shown = stdout(&identity(&scratch, &["show", &out]));
    for part in [
        "node host-a",
        "10.0.0.1, a.example, localhost",
        "CN=host-a",
        "CN=dwcp authority",
        "days left",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let json = || -> Value {
        let shown = operator(&scratch.path("s"), &["--json", "identity", "show", &out]).output();
        serde_json::from_str(&stdout(&shown.unwrap())).unwrap()
    };
    let before = json();
    let identity_dir = ["--authority", &authority, "--identity", &out];
    stdout(&identity(&scratch, &[&["rotate", "--days", "10"][..], &identity_dir].concat()));
    let after = json();
    assert_ne!(before["node"]["fingerprint"], after["node"]["fingerprint"]);
    assert_eq!(before["node"]["hosts"], after["node"]["hosts"]);
    assert_eq!(before["trusted"], after["trusted"]);
    let rotate = ["rotate", "--of-authority", "fleet", "--authority", &authority];
    stdout(&identity(&scratch, &rotate));
    stdout(&identity(&scratch, &[&["rotate"][..], &identity_dir].concat()));
    let trusted = json()["trusted"].as_array().unwrap().len();
    assert_eq!(trusted, 2, "the earlier one is trusted still");
    for (args, part) in
        [(["issue", "two words"], "letters, digits"), (["show", "/nowhere"], "/nowhere/ca.pem")]
    {
        let args = [&args[..], if args[0] == "issue" { &to[..] } else { &[] }].concat();
        let text = refusal(&identity(&scratch, &args), 1);
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_daemon_takes_its_name_from_its_certificate_and_a_new_one_with_a_signal() {
    let scratch = Scratch::new();
    let (authority, out) = (text(&scratch.path("authority")), text(&scratch.path("a")));
    stdout(&identity(&scratch, &["init", "--authority", &authority]));
    let to = ["--authority", &authority, "--out", &out];
    stdout(&identity(&scratch, &[&["issue", "testling", "--days", "3"][..], &to].concat()));
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    let plain = std::fs::read_to_string(&config).unwrap();
    let secured = plain.replace("transport: plain", &format!("identity_dir: {out}"));
    std::fs::write(&config, secured).unwrap();
    let daemon = Daemon::start(&scratch, &config);
    let status = stdout(&daemon.run(&["status"]));
    assert!(status.contains("connections: tls, certificate valid until"), "{status}");
    let logged = |text: &str| stdout(&daemon.run(&["logs"])).contains(text).then_some(());
    wait_until("it warns", || logged("certificate ends in "));
    let test = stdout(&daemon.run(&["transport-test", "--seconds", "1"]));
    assert!(test.contains("bit/s") || test.contains("B/s"), "{test}");
    stdout(&identity(
        &scratch,
        &["rotate", "--authority", &authority, "--identity", &out, "--days", "90"],
    ));
    let before = daemon.run(&["--json", "status"]);
    daemon.process.signal(libc::SIGHUP);
    wait_until("the new one is in use", || {
        let of = |output: &std::process::Output| -> Value {
            let status: Value = serde_json::from_str(&stdout(output)).unwrap();
            status["node"]["security"]["certificate"]["fingerprint"].clone()
        };
        (of(&before) != of(&daemon.run(&["--json", "status"]))).then_some(())
    });
    std::fs::write(scratch.path("a").join("node.pem"), "nothing").unwrap();
    daemon.process.signal(libc::SIGHUP);
    wait_until("it says so", || logged("identity not reloaded"));
}

#[test]
fn a_daemon_that_listens_needs_a_decision() {
    let scratch = Scratch::new();
    let config = scratch.path("c.yaml");
    write_config(&scratch, &config, "");
    let plain = std::fs::read_to_string(&config).unwrap();
    for (instead, part) in [
        ("transport: tls", "neither an identity nor plain"),
        ("identity_dir: /nowhere", "/nowhere/node.pem"),
    ] {
        std::fs::write(&config, plain.replace("transport: plain", instead)).unwrap();
        let output = Daemon::command(&scratch, &config).output().unwrap();
        let text = refusal(&output, 1);
        assert!(text.contains(part), "{part}: {text}");
    }
}
