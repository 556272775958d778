//! Whether RDMA can be used here, and if not, why not.

use super::device::{Device, Port, PortState};
use super::library::{LIBRARY, Library, Unavailable};
use std::path::Path;

/// A device that answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// The kernel's name for it.
    pub name: String,
    /// Its ports, active or not.
    pub ports: Vec<Port>,
}

/// All devices of this host; one port at least is active.
///
/// # Errors
/// Why there is no RDMA.
pub fn probe() -> Result<Vec<DeviceReport>, Unavailable> {
    probe_with(Path::new(LIBRARY))
}

/// As [`probe`], by a library at another place.
///
/// # Errors
/// Why there is no RDMA.
pub fn probe_with(library: &Path) -> Result<Vec<DeviceReport>, Unavailable> {
    let devices = Device::open_all(&Library::load(library)?)?;
    let report =
        |device: &Device| Ok(DeviceReport { name: device.name().into(), ports: device.ports()? });
    usable(devices.iter().map(report).collect::<Result<_, Unavailable>>()?)
}

fn usable(devices: Vec<DeviceReport>) -> Result<Vec<DeviceReport>, Unavailable> {
    let ports = || devices.iter().flat_map(|device| device.ports.iter().map(move |p| (device, p)));
    if ports().any(|(_, port)| port.state == PortState::Active) {
        return Ok(devices);
    }
    let states = ports()
        .map(|(device, port)| format!("{} port {} is {}", device.name, port.number, port.state));
    Err(Unavailable::PortDown { ports: states.collect::<Vec<_>>().join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rdma::LinkLayer;

    fn device(name: &str, states: &[PortState]) -> DeviceReport {
        let port = |(index, state): (usize, &PortState)| Port {
            number: index as u8 + 1,
            state: *state,
            mtu_bytes: 1024,
            max_mtu_bytes: 4096,
            link_layer: LinkLayer::Ethernet,
            local_id: 0,
            gids: Vec::new(),
        };
        DeviceReport { name: name.into(), ports: states.iter().enumerate().map(port).collect() }
    }

    #[test]
    fn one_active_port_is_enough() {
        let devices = vec![
            device("a", &[PortState::Down]),
            device("b", &[PortState::Init, PortState::Active]),
        ];
        assert_eq!(usable(devices.clone()).unwrap(), devices);
    }

    #[test]
    fn ports_that_are_down_are_all_named() {
        let devices = vec![device("a", &[PortState::Down, PortState::Armed])];
        let error = usable(devices).unwrap_err();
        assert_eq!(error.to_string(), "no port is active: a port 1 is down, a port 2 is armed");
    }

    /// Whatever this host has, the answer is one or the other, and a reason can be read.
    #[test]
    fn this_host_answers() {
        match probe() {
            Ok(devices) => assert!(devices.iter().any(|device| !device.ports.is_empty())),
            Err(error) => assert!(error.to_string().len() > 10, "{error}"),
        }
    }

    #[test]
    fn a_host_without_the_library_is_no_failure() {
        let error = probe_with(Path::new("libibverbs-hidden.so.1")).unwrap_err();
        assert!(matches!(error, Unavailable::LibraryMissing { .. }), "{error}");
    }
}
