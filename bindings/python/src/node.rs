//! `_dwcp.Node`: a node whose guests are Python objects.

use crate::door::{Handle, whole};
use crate::guest::{Failure, Guest};
use crate::memory::RegionArgument;
use crate::migration::Migration;
use crate::modes::Transport;
use crate::paths::{Paths, Rdma};
use crate::{convert, door, error, flags, modes, paths, sink, source};
use dwcp::base::MigrationId;
use dwcp::base::ids::ParseIdError;
use dwcp::base::limits::MAX_MULTIFD_CHANNELS;
use dwcp::base::networks::ParseNetworksError;
use dwcp::migration::MigrationOptions;
use dwcp::migration::options::{ChoiceError, PostCopyRuleError};
use dwcp::observe::Event;
use dwcp::runtime::control::{ControlOptions, ControlServer, serve_control};
use dwcp::runtime::held::HeldOptions;
use dwcp::runtime::security::SecurityOptions;
use dwcp::runtime::telemetry::Telemetry;
use dwcp::{NodeOptions, Status};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Native half of `dwcp.Node`.
#[pyclass(frozen, module = "dwcp._dwcp")]
pub struct Node {
    // Dropped before the node: they hold handles of it.
    servers: Mutex<Vec<Handle<ControlServer>>>,
    telemetry: Handle<Telemetry>,
    inner: Handle<dwcp::Node>,
    guests: Mutex<HashMap<String, Weak<Guest>>>,
}

/// Events as Python gets them.
type Events<'py> = Vec<Bound<'py, PyAny>>;

#[pymethods]
impl Node {
    #[new]
    #[pyo3(signature = (
        name, listen = None, state_dir = None, hold_departed_guests = true, held_bytes = None,
        identity_dir = None, allowed_peers = Vec::new(), plain = false,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python constructor")]
    fn new(
        py: Python<'_>,
        name: String,
        listen: Option<String>,
        state_dir: Option<PathBuf>,
        hold_departed_guests: bool,
        held_bytes: Option<u64>,
        identity_dir: Option<PathBuf>,
        allowed_peers: Vec<String>,
        plain: bool,
    ) -> PyResult<Self> {
        let held = HeldOptions {
            enabled: hold_departed_guests,
            max_bytes: held_bytes.unwrap_or(HeldOptions::default().max_bytes),
        };
        let start = || -> Result<_, (Status, String)> {
            let listen = listen.as_deref().map(resolve).transpose()?;
            let security = security(identity_dir, allowed_peers, plain)?;
            let options =
                NodeOptions { name, listen, state_dir, held, security, ..NodeOptions::default() };
            dwcp::Node::start(options).map_err(|failure| (failure.status(), failure.to_string()))
        };
        let inner =
            door::pass(py, start)?.map_err(|(status, text)| error::new(py, status, &text))?;
        Ok(Self {
            servers: Mutex::default(),
            telemetry: Handle::new(Telemetry::new(&inner)),
            inner: Handle::new(inner),
            guests: Mutex::default(),
        })
    }

    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        door::pass(py, || self.inner.name().to_owned())
    }

    /// `HOST:PORT` with the port that was chosen, None without a listener.
    #[getter]
    fn listen_address(&self, py: Python<'_>) -> PyResult<Option<String>> {
        door::pass(py, || self.inner.local_address().map(|address| address.to_string()))
    }

    fn add_source(
        &self,
        name: &str,
        guest: &Bound<'_, PyAny>,
        page_bytes: u32,
        regions: Vec<RegionArgument<'_>>,
    ) -> PyResult<()> {
        let methods = [source::CONTROL_METHODS, source::LOG_METHODS];
        let (memory, adopted) = Guest::adopt(guest, &methods, page_bytes, regions)?;
        let source = Arc::new(source::logged(memory, &adopted));
        door::pass_node(guest.py(), || self.inner.add_source(name, source))?;
        self.remember(name, &adopted);
        Ok(())
    }

    fn add_process_memory_source(
        &self,
        name: &str,
        guest: &Bound<'_, PyAny>,
        page_bytes: u32,
        regions: Vec<RegionArgument<'_>>,
    ) -> PyResult<()> {
        kernel_tracking(guest.py())?;
        let methods = [source::CONTROL_METHODS];
        let (memory, adopted) = Guest::adopt(guest, &methods, page_bytes, regions)?;
        let source = Arc::new(source::tracked(memory, &adopted));
        door::pass_node(guest.py(), || self.inner.add_source(name, source))?;
        self.remember(name, &adopted);
        Ok(())
    }

    fn add_destination(
        &self,
        name: &str,
        guest: &Bound<'_, PyAny>,
        page_bytes: u32,
        regions: Vec<RegionArgument<'_>>,
    ) -> PyResult<()> {
        let (memory, adopted) = Guest::adopt(guest, &[sink::METHODS], page_bytes, regions)?;
        let sink = Arc::new(sink::sink(memory, &adopted));
        door::pass_node(guest.py(), || self.inner.add_destination(name, sink))?;
        self.remember(name, &adopted);
        Ok(())
    }

    #[pyo3(signature = (name, qmp, incoming = false))]
    fn attach_qemu(
        &self,
        py: Python<'_>,
        name: &str,
        qmp: PathBuf,
        incoming: bool,
    ) -> PyResult<()> {
        door::pass_node(py, || self.inner.attach_qemu(name, &qmp, incoming))
    }

    fn remove_guest(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        door::pass_node(py, || self.inner.remove_guest(name))
    }

    #[pyo3(signature = (guest = None, older_than_s = None))]
    fn clear_held(
        &self,
        py: Python<'_>,
        guest: Option<&str>,
        older_than_s: Option<u64>,
    ) -> PyResult<u64> {
        let age = older_than_s.map(std::time::Duration::from_secs);
        Ok(door::pass(py, || self.inner.clear_held(guest, age))?.bytes)
    }

    fn guests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::to_python(py, &door::pass(py, || self.inner.guests())?)
    }

    #[pyo3(signature = (
        guest, to, *, streams = None, codec = None, max_downtime_ms = None, deadline_s = None,
        bandwidth_limit_bytes_per_s = None, throttle = None, multifd_channels = None,
        post_copy = None, reconnect_timeout_s = None, stall_timeout_s = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python call")]
    fn migrate(
        &self,
        py: Python<'_>,
        guest: &str,
        to: &str,
        streams: Option<&Bound<'_, PyAny>>,
        codec: Option<&str>,
        max_downtime_ms: Option<f64>,
        deadline_s: Option<f64>,
        bandwidth_limit_bytes_per_s: Option<&Bound<'_, PyAny>>,
        throttle: Option<bool>,
        multifd_channels: Option<&Bound<'_, PyAny>>,
        post_copy: Option<&str>,
        reconnect_timeout_s: Option<f64>,
        stall_timeout_s: Option<f64>,
    ) -> PyResult<Migration> {
        let mut options = MigrationOptions::default();
        if let Some(streams) = streams {
            options.streams = whole("streams", streams, modes::STREAMS)?;
        }
        if let Some(codec) = codec {
            options.codec =
                codec.parse().map_err(|failure: ChoiceError| error::invalid(py, failure))?;
        }
        options.throttle = throttle.unwrap_or(options.throttle);
        if let Some(channels) = multifd_channels {
            options.multifd_channels =
                whole("multifd_channels", channels, 0..=MAX_MULTIFD_CHANNELS)?;
        }
        if let Some(rule) = post_copy {
            options.post_copy =
                rule.parse().map_err(|failure: PostCopyRuleError| error::invalid(py, failure))?;
        }
        let limit = |value| whole("bandwidth_limit_bytes_per_s", value, 0..=u64::MAX);
        options.bandwidth_limit_bytes_per_s = bandwidth_limit_bytes_per_s.map(limit).transpose()?;
        options.deadline = door::seconds(py, "deadline_s", deadline_s)?;
        let downtime_s = max_downtime_ms.map(|milliseconds| milliseconds / 1e3);
        set(&mut options.max_downtime, door::seconds(py, "max_downtime_ms / 1000", downtime_s)?);
        let reconnect = door::seconds(py, "reconnect_timeout_s", reconnect_timeout_s)?;
        set(&mut options.reconnect_timeout, reconnect);
        set(&mut options.stall_timeout, door::seconds(py, "stall_timeout_s", stall_timeout_s)?);
        self.start_migration(py, guest, to, options)
    }

    fn migrations(&self, py: Python<'_>) -> PyResult<Vec<Migration>> {
        let found = door::pass(py, || self.inner.migrations())?;
        found.into_iter().map(|inner| self.wrap(py, inner)).collect()
    }

    fn migration(&self, py: Python<'_>, id: &str) -> PyResult<Migration> {
        let id: MigrationId =
            id.parse().map_err(|failure: ParseIdError| error::invalid(py, failure))?;
        let inner = door::pass_node(py, || self.inner.migration(id))?;
        self.wrap(py, inner)
    }

    fn add_peer(&self, py: Python<'_>, peer: &str) -> PyResult<()> {
        door::pass_node(py, || self.inner.add_peer(peer))
    }

    fn remove_peer(&self, py: Python<'_>, peer: &str) -> PyResult<()> {
        door::pass_node(py, || self.inner.remove_peer(peer))
    }

    fn peers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::to_python(py, &door::pass(py, || self.inner.peers())?)
    }

    fn peer<'py>(&self, py: Python<'py>, peer: &str) -> PyResult<Bound<'py, PyAny>> {
        convert::to_python(py, &door::pass_node(py, || self.inner.peer(peer))?)
    }

    fn detect_mode<'py>(&self, py: Python<'py>, peer: String) -> PyResult<Bound<'py, PyAny>> {
        let node = self.inner();
        let work = move || node.detect_mode(&peer);
        convert::to_python(py, &door::pass_node_aside(py, "dwcp-detecting", work)?)
    }

    /// `auto` leaves it to measurement; without a peer it is the mode of all.
    #[pyo3(signature = (mode, peer = None))]
    fn set_mode(&self, py: Python<'_>, mode: &str, peer: Option<&str>) -> PyResult<()> {
        let mode = modes::mode(py, mode)?;
        door::pass_node(py, || self.inner.set_mode(peer, mode))
    }

    fn probe_peer<'py>(
        &self,
        py: Python<'py>,
        peer: String,
        count: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        modes::probe(py, self.inner(), peer, count)
    }

    #[pyo3(signature = (peer, mode, streams, duration_s))]
    fn test_transport<'py>(
        &self,
        py: Python<'py>,
        peer: Option<String>,
        mode: &str,
        streams: &Bound<'py, PyAny>,
        duration_s: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        modes::test(py, self.inner(), (peer, mode, streams), duration_s)
    }

    fn transport<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        modes::transport_out(py, &door::pass(py, || self.inner.transport())?)
    }

    fn share_paths_with(&self, py: Python<'_>, networks: &str) -> PyResult<()> {
        let networks = networks.parse();
        let networks =
            networks.map_err(|failure: ParseNetworksError| error::invalid(py, failure))?;
        door::pass(py, || self.inner.share_paths_with(networks))
    }

    fn network_matrix<'py>(
        &self,
        py: Python<'py>,
        nodes: Option<Vec<String>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let node = self.inner();
        let work = move || node.network_matrix(nodes.as_deref());
        convert::to_python(py, &door::pass_node_aside(py, "dwcp-matrix", work)?)
    }

    /// `options` has the fields of `dwcp.TransportOptions`.
    fn set_transport(&self, py: Python<'_>, options: Transport<'_>) -> PyResult<()> {
        let options = modes::transport_in(py, &options)?;
        door::pass(py, || self.inner.set_transport(options))
    }

    fn paths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        paths::paths_out(py, &door::pass(py, || self.inner.paths())?)
    }

    /// `options` has the fields of `dwcp.PathOptions`.
    fn set_paths(&self, py: Python<'_>, options: Paths<'_>) -> PyResult<()> {
        let options = paths::paths_in(py, &options)?;
        door::pass_node(py, || self.inner.set_paths(options))
    }

    fn rdma<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        paths::rdma_out(py, door::pass(py, || self.inner.rdma())?)
    }

    /// `options` has the fields of `dwcp.RdmaOptions`.
    fn set_rdma(&self, py: Python<'_>, options: Rdma<'_>) -> PyResult<()> {
        let options = paths::rdma_in(&options)?;
        door::pass(py, || self.inner.set_rdma(options))
    }

    fn flags<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::to_python(py, &door::pass(py, || self.inner.flags())?)
    }

    fn flag<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let flag = flags::flag(py, name)?;
        convert::to_python(py, &door::pass(py, || self.inner.flag(flag))?)
    }

    /// `edits` is a JSON object of edits by the flags' names; the flags as they are then.
    fn change_flags<'py>(
        &self,
        py: Python<'py>,
        edits: &str,
        who: String,
        why: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (node, change) = (self.inner(), flags::change(py, edits, who, why)?);
        convert::to_python(py, &flags::pass_aside(py, move || node.change_flags(&change))?)
    }

    fn disable_all_flags<'py>(
        &self,
        py: Python<'py>,
        who: String,
        why: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let node = self.inner();
        convert::to_python(py, &flags::pass_aside(py, move || node.disable_all_flags(&who, &why))?)
    }

    fn clear_latch<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        who: String,
        why: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (node, flag) = (self.inner(), flags::flag(py, name)?);
        convert::to_python(py, &flags::pass_aside(py, move || node.clear_latch(flag, &who, &why))?)
    }

    fn explain_flag<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        unit: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let flag = flags::flag(py, name)?;
        convert::to_python(py, &flags::pass(py, || self.inner.explain_flag(flag, unit))?)
    }

    fn flag_history<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyAny>> {
        convert::to_python(py, &door::pass(py, || self.inner.flag_history(limit))?)
    }

    fn decider(&self, py: Python<'_>, name: &str, unit: String) -> PyResult<flags::Decider> {
        flags::decider(py, &self.inner, name, unit)
    }

    /// None takes it back.
    fn set_kill_switch(&self, py: Python<'_>, who: &str, why: Option<&str>) -> PyResult<()> {
        flags::pass(py, || self.inner.set_kill_switch(who, why))
    }

    /// `schedule` is JSON; None: the flag's own, or the guide's.
    fn start_schedule<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        schedule: Option<&str>,
        who: String,
        why: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (node, flag) = (self.inner(), flags::flag(py, name)?);
        let schedule = schedule.map(|text| flags::schedule(py, text)).transpose()?;
        let work = move || node.start_schedule(flag, schedule, &who, &why);
        convert::to_python(py, &flags::pass_aside(py, work)?)
    }

    fn stop_schedule<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        who: String,
        why: String,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (node, flag) = (self.inner(), flags::flag(py, name)?);
        convert::to_python(
            py,
            &flags::pass_aside(py, move || node.stop_schedule(flag, &who, &why))?,
        )
    }

    fn rollouts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::to_python(py, &door::pass(py, || self.inner.rollouts())?)
    }

    fn rollback_limits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        convert::to_python(py, &door::pass(py, || self.inner.rollback_limits())?)
    }

    /// `limits` is a JSON object.
    fn set_rollback_limits(&self, py: Python<'_>, limits: &str) -> PyResult<()> {
        let limits = flags::limits(py, limits)?;
        flags::pass(py, || self.inner.set_rollback_limits(limits))
    }

    fn set_rollout_members(&self, py: Python<'_>, members: Vec<String>) -> PyResult<()> {
        flags::pass(py, || self.inner.set_rollout_members(&members))
    }

    /// Events above `after`; waits up to `timeout_s` for the first one.
    #[pyo3(signature = (after, timeout_s))]
    fn events<'py>(
        &self,
        py: Python<'py>,
        after: u64,
        timeout_s: Option<f64>,
    ) -> PyResult<Events<'py>> {
        let timeout = door::seconds(py, "timeout_s", timeout_s)?;
        let wait =
            |slice: Duration| Some(self.inner.wait_events(after, slice)).filter(|e| !e.is_empty());
        let events = door::pass_waiting(py, timeout, wait)?.unwrap_or_default();
        events.iter().map(|event| event_to_python(py, event)).collect()
    }

    /// The metrics, as the control socket tells them.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let metrics = door::pass(py, || self.telemetry.metrics_json(|_| true))?;
        convert::to_python(py, &metrics)
    }

    /// Serves the node on a unix socket until it stops; where metrics are answered, if anywhere.
    #[pyo3(signature = (path, metrics_listen = None))]
    fn serve_control(
        &self,
        py: Python<'_>,
        path: PathBuf,
        metrics_listen: Option<&str>,
    ) -> PyResult<Option<String>> {
        let resolved = metrics_listen.map(resolve).transpose();
        let metrics_listen = resolved.map_err(|(status, text)| error::new(py, status, &text))?;
        let options = ControlOptions { metrics_listen, ..ControlOptions::default() };
        let served = door::pass(py, || serve_control(&self.inner, &path, options))?;
        let server =
            served.map_err(|failure| error::new(py, failure.status(), &failure.to_string()))?;
        let metrics = server.metrics_address().map(|address| address.to_string());
        self.lock_servers().push(Handle::new(server));
        Ok(metrics)
    }

    /// Stops the node on a thread of its own, so that Ctrl-C is answered meanwhile.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        let servers = std::mem::take(&mut *self.lock_servers());
        drop(servers);
        let node = self.inner();
        door::pass_aside(py, "dwcp-stop", move || node.stop())
    }
}

impl Node {
    /// The facade, for threads and other files.
    pub fn inner(&self) -> dwcp::Node {
        dwcp::Node::clone(&self.inner)
    }

    fn lock_servers(&self) -> MutexGuard<'_, Vec<Handle<ControlServer>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, name: &str, guest: &Arc<Guest>) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.retain(|_, guest| guest.strong_count() > 0);
        guests.insert(name.to_owned(), Arc::downgrade(guest));
    }

    fn guest(&self, name: &str) -> Option<Arc<Guest>> {
        let guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        guests.get(name).and_then(Weak::upgrade)
    }

    /// Each outgoing migration keeps its own failure; the place is set before the first callback.
    fn start_migration(
        &self,
        py: Python<'_>,
        name: &str,
        to: &str,
        options: MigrationOptions,
    ) -> PyResult<Migration> {
        let failure = Failure::default();
        let guest = self.guest(name);
        let before = guest.as_ref().map(|guest| guest.keep_failures_in(failure.clone()));
        let started = door::pass_node(py, || self.inner.migrate(name, to, options));
        if started.is_err()
            && let (Some(guest), Some(before)) = (guest, before)
        {
            guest.keep_failures_in(before);
        }
        Ok(Migration { inner: Handle::new(started?), failure })
    }

    fn wrap(&self, py: Python<'_>, inner: dwcp::Migration) -> PyResult<Migration> {
        let name = door::pass(py, || inner.guest().to_owned())?;
        let failure = self.guest(&name).map(|guest| guest.failure()).unwrap_or_default();
        Ok(Migration { inner: Handle::new(inner), failure })
    }
}

/// Raises `UnsupportedError` where the kernel cannot track writes to memory of this process.
#[pyfunction]
pub fn kernel_tracking(py: Python<'_>) -> PyResult<()> {
    let probed = door::pass(py, dwcp::runtime::sys::tracking_support::probe)?;
    probed.map(|_| ()).map_err(|lack| error::new(py, Status::Unsupported, &lack.to_string()))
}

fn event_to_python<'py>(py: Python<'py>, event: &Event) -> PyResult<Bound<'py, PyAny>> {
    let dict = convert::to_python(py, event)?;
    dict.set_item("component", convert::to_python(py, &event.kind.component())?)?;
    dict.set_item("level", convert::to_python(py, &event.kind.level())?)?;
    Ok(dict)
}

fn security(
    identity_dir: Option<PathBuf>,
    allowed_peers: Vec<String>,
    plain: bool,
) -> Result<SecurityOptions, (Status, String)> {
    match identity_dir {
        Some(_) if plain => {
            let text = "identity_dir and plain exclude each other".to_owned();
            Err((Status::InvalidArgument, text))
        }
        Some(identity_dir) => Ok(SecurityOptions::Tls { identity_dir, allowed_peers }),
        None if plain => Ok(SecurityOptions::Plain),
        None => Ok(SecurityOptions::Undecided),
    }
}

fn resolve(listen: &str) -> Result<std::net::SocketAddr, (Status, String)> {
    let refuse = |reason: String| {
        (Status::InvalidArgument, format!("listen address {listen:?} is not HOST:PORT: {reason}"))
    };
    let mut found = listen.to_socket_addrs().map_err(|failure| refuse(failure.to_string()))?;
    found.next().ok_or_else(|| refuse("no address".to_owned()))
}

fn set(place: &mut Duration, value: Option<Duration>) {
    if let Some(value) = value {
        *place = value;
    }
}
