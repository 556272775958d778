//! The QMP client against the QEMU that is installed.

use dwcp::runtime::qemu::{Accelerator, Qmp, QmpError};
use dwcp_qemulab::{LabError, Vm, VmConfig, memory_digest};
use serde_json::{Value, json};
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const MIB: u64 = 1 << 20;
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);

fn machine(incoming: bool) -> Result<Vm, LabError> {
    Vm::start(&VmConfig { memory_mib: 64, paused: true, incoming, ..VmConfig::default() })
}

#[test]
fn version_machine_and_state_are_told() -> Outcome {
    let vm = machine(false)?;
    let mut qmp = vm.qmp()?;
    assert!(qmp.version().major >= 7, "{:?}", qmp.version());
    let machine = qmp.machine()?;
    assert!(machine.machine_type.starts_with("pc-i440fx-"), "{machine:?}");
    assert!(machine.cpu_type.ends_with("-x86_64-cpu"), "{machine:?}");
    // The laboratory adds 64 KiB.
    assert_eq!((machine.memory_bytes, machine.cpus), (64 * MIB + (64 << 10), 1));
    assert_eq!(machine.accelerator, Accelerator::Tcg);
    let state = qmp.status()?;
    assert_eq!((state.running, &*state.status), (false, "prelaunch"));
    Ok(())
}

#[test]
fn a_paused_guest_continues_and_stops_with_events() -> Outcome {
    let vm = machine(false)?;
    let mut qmp = vm.qmp()?;
    qmp.cont()?;
    assert!(qmp.status()?.running);
    qmp.stop()?;
    assert!(!qmp.status()?.running);
    for name in ["RESUME", "STOP"] {
        let event = qmp.next_event(LONG)?.ok_or(name)?;
        assert_eq!(event.name, name);
        assert!(event.time_us > 0);
    }
    assert_eq!(qmp.next_event(SHORT)?, None);
    Ok(())
}

#[test]
fn refusals_carry_the_words_of_qemu() -> Outcome {
    let vm = machine(false)?;
    let mut qmp = vm.qmp()?;
    match qmp.execute("no-such-command", Value::Null) {
        Err(QmpError::Refused { class, desc, .. }) => {
            assert_eq!(class, "CommandNotFound");
            assert_eq!(desc, "The command no-such-command has not been found");
        }
        other => panic!("{other:?}"),
    }
    let error = qmp.migrate("nonsense:").unwrap_err().to_string();
    assert!(error.starts_with("QEMU refused migrate: GenericError: "), "{error}");
    let error = qmp.migrate_incoming("tcp:127.0.0.1:0").unwrap_err().to_string();
    assert!(error.contains("'-incoming' was not specified"), "{error}");
    let error = qmp.set_capabilities(&[("no-such", true)]).unwrap_err().to_string();
    assert!(error.contains("no-such"), "{error}");
    assert!(qmp.status().is_ok(), "a refusal ended the conversation");
    Ok(())
}

#[test]
fn capabilities_and_parameters_are_set_and_read() -> Outcome {
    let vm = machine(false)?;
    let mut qmp = vm.qmp()?;
    assert!(!qmp.capabilities()?["multifd"]);
    qmp.set_capabilities(&[("multifd", true), ("events", true)])?;
    let capabilities = qmp.capabilities()?;
    assert!(capabilities["multifd"] && capabilities["events"]);
    qmp.set_parameters(json!({ "max-bandwidth": 1u64 << 50, "multifd-channels": 3 }))?;
    let parameters = qmp.parameters()?;
    assert_eq!(parameters["max-bandwidth"], 1u64 << 50);
    assert_eq!(parameters["multifd-channels"], 3);
    Ok(())
}

#[test]
fn the_longest_answer_fits() -> Outcome {
    let vm = machine(false)?;
    let schema = vm.qmp()?.execute("query-qmp-schema", Value::Null)?;
    assert!(schema.as_array().is_some_and(|entries| entries.len() > 500));
    Ok(())
}

#[test]
fn a_machine_migrates_and_both_sides_say_so() -> Outcome {
    let (source, destination) = (machine(false)?, machine(true)?);
    let (mut from, mut to) = (source.qmp()?, destination.qmp()?);
    assert_eq!(to.status()?.status, "inmigrate");
    assert_eq!(from.machine()?, to.machine()?);
    assert_eq!(from.migration_info()?.status, "");
    let uri = format!("unix:{}", destination.folder().join("migrate.sock").display());
    to.migrate_incoming(&uri)?;
    from.set_capabilities(&[("events", true)])?;
    from.migrate(&uri)?;
    wait_for_status(&mut from, "completed")?;
    let info = from.migration_info()?;
    assert!(info.is_over() && info.is_completed() && info.error_desc.is_none());
    assert!(info.total_time_ms.is_some() && info.downtime_ms.is_some());
    let ram = info.ram.ok_or("no ram")?;
    assert!(ram.total >= 64 * MIB && ram.page_size == 4096 && ram.transferred > 0, "{ram:?}");
    // QEMU says "completed" a little before its source has come to rest.
    while from.status()?.status == "finish-migrate" {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(from.status()?.status, "postmigrate");
    assert_eq!(memory_digest(&mut from)?, memory_digest(&mut to)?);
    Ok(())
}

#[test]
fn a_failed_and_a_cancelled_migration_leave_the_source() -> Outcome {
    let source = machine(false)?;
    let mut qmp = source.qmp()?;
    qmp.set_capabilities(&[("events", true)])?;
    qmp.migrate("unix:/nonexistent/socket")?;
    wait_for_status(&mut qmp, "failed")?;
    let reason = qmp.migration_info()?.error_desc.ok_or("no reason")?;
    assert!(reason.contains("No such file"), "{reason}");
    let silent = source.folder().join("silent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&silent)?;
    qmp.set_parameters(json!({ "max-bandwidth": 1000 }))?;
    qmp.migrate(&format!("unix:{}", silent.display()))?;
    qmp.migrate_cancel()?;
    wait_for_status(&mut qmp, "cancelled")?;
    qmp.cont()?;
    assert!(qmp.status()?.running);
    Ok(())
}

#[test]
fn a_second_client_is_told_why_it_waits() -> Outcome {
    let vm = machine(false)?;
    let _first = Qmp::connect(&vm.qmp_path(), LONG)?;
    let error = Qmp::connect(&vm.qmp_path(), SHORT).unwrap_err().to_string();
    assert!(error.contains("one client of a QMP socket at a time"), "{error}");
    Ok(())
}

#[test]
fn quitting_ends_qemu_and_the_conversation() -> Outcome {
    let vm = machine(false)?;
    let mut qmp = vm.qmp()?;
    qmp.quit()?;
    while qmp.next_event(LONG).is_ok() {}
    assert!(matches!(qmp.status(), Err(QmpError::Closed { .. })));
    match vm.wait_for_line("anything", LONG) {
        Err(LabError::Ended { .. }) => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

fn wait_for_status(qmp: &mut Qmp, wanted: &str) -> Outcome {
    loop {
        let event = qmp.next_event(LONG)?.ok_or(format!("no event of {wanted}"))?;
        if event.name == "MIGRATION" && event.data["status"] == wanted {
            return Ok(());
        }
    }
}
