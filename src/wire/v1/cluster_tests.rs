//! Tests of records within registers beyond the vectors.

use super::*;
use crate::wire::v1::crdt::{OrMapEntry, OrSet, Timestamp};

fn register(value: Json) -> LwwRegister {
    let wall = WallTime::from_unix(1, 0).unwrap();
    let timestamp = Timestamp { node: "n".into(), clock: 1, wall };
    LwwRegister { node_id: "n".into(), value, timestamp }
}

fn node(cpu_usage: f64) -> NodeRecord {
    let at = WallTime::from_unix(1, 0).unwrap();
    NodeRecord {
        id: "<n>".into(),
        region: String::new(),
        status: "active".into(),
        cpu_usage,
        memory_usage: 0.1,
        disk_usage: -0.0,
        vm_count: 0,
        last_heartbeat: at.clone(),
        updated_at: at,
    }
}

#[test]
fn a_record_comes_back_out_of_its_register() {
    let value = node(1e-7).to_value().unwrap();
    assert!(value.text().contains("\\\\u003cn\\\\u003e"), "escaped twice: {}", value.text());
    assert_eq!(NodeRecord::from_register(&register(value)), Ok(node(1e-7)));
    assert!(node(f64::NAN).to_value().is_err());
}

#[test]
fn a_machine_without_metadata_has_null_there() {
    let text = r#"{"id":"v","status":"","node_id":"","cpu_cores":1,"memory_mb":1,"disk_gb":1,"ip_address":"","created_at":"0001-01-01T00:00:00Z","updated_at":"0001-01-01T00:00:00Z","metadata":null}"#;
    let machine = VmRecord::from_register(&register(Json::of("text", &text).unwrap())).unwrap();
    assert_eq!(machine.metadata, None);
    assert_eq!(machine.to_value().unwrap().read::<String>("text").unwrap(), text);
}

#[test]
fn registers_with_something_else_are_refused() {
    assert!(NodeRecord::from_register(&register(Json::of("number", &5).unwrap())).is_err());
    assert!(NodeRecord::from_register(&register(Json::of("text", &"{}").unwrap())).is_err());
    let none = BTreeMap::new;
    let keys = OrSet { node_id: "n".into(), adds: none(), removes: none(), clock: 0 };
    let data = Json::of("set", &["a"]).unwrap();
    let entry = OrMapEntry { key: "k".into(), kind: "g_set".into(), data };
    let map = OrMap { node_id: "n".into(), keys, values: vec![entry] };
    let error = JsonError::Value { what: "record's type", value: "g_set".into() };
    assert_eq!(records::<NodeRecord>(&map), Err(error));
}
