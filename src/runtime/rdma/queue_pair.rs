//! One end of a reliable connection: work goes in, completions come out, in the order of the work.

use super::bindings::*;
use super::completion::{CompletionQueue, unsupported};
use super::device::{Context, LinkLayer, PortState};
use super::library::VerbError;
use super::memory::{Domain, MemoryRegion, Piece, ProtectionDomain};
use super::slots::{RECEIVES, SENDS, Slot, Slots};
use super::work::{Completion, Done, PostError, Target, Work, WorkError};
use crate::wire::rdma::{Endpoint, Link, MAX_24_BITS};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

/// The other side is asked again so many times. The field holds one more, which soft-RoCE takes for
/// "for ever".
const RETRIES: u8 = 6;
/// How long an answer may take: 4.096 us times two to this power, 67 ms. With all retries a peer that
/// is gone is noticed within seconds.
const ANSWER_TIME: u8 = 14;
/// A receiver without a place for a message is asked again so many times; one more means for ever.
const RECEIVER_RETRIES: u8 = 6;
/// Code of the time between such questions: 81.92 ms. Who counts what he may send never waits for it.
const RECEIVER_PAUSE: u8 = 26;
/// Hops of a routed packet.
const HOP_LIMIT: u8 = 64;

/// How a queue pair is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairOptions {
    /// The device's port, from 1.
    pub port: u8,
    /// Sends, writes and reads under way.
    pub send_depth: u32,
    /// Places for messages of the other side.
    pub receive_depth: u32,
}

impl Default for PairOptions {
    fn default() -> Self {
        Self { port: 1, send_depth: 64, receive_depth: 64 }
    }
}

/// No connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The device has no such port.
    #[error("{device} has no port {port}")]
    NoPort {
        /// The device.
        device: String,
        /// The number asked for.
        port: u8,
    },
    /// The port carries no data.
    #[error("port {port} of {device} is {state}")]
    PortDown {
        /// The device.
        device: String,
        /// The port.
        port: u8,
        /// What it is instead of active.
        state: PortState,
    },
    /// The port has no address.
    #[error("port {port} of {device} has no address; does its network interface have one?")]
    NoAddress {
        /// The device.
        device: String,
        /// The port.
        port: u8,
    },
    /// The two ends cannot be joined.
    #[error("this end is on {ours:?}, the other on {theirs:?}")]
    Links {
        /// Below this end.
        ours: Link,
        /// Below the other.
        theirs: Link,
    },
    /// No random number for the first packet.
    #[error("no random number: {0}")]
    Random(String),
    /// The device refuses.
    #[error(transparent)]
    Verb(#[from] VerbError),
}

/// One end of a connection that does not know the other yet; it can already receive.
#[derive(Debug)]
pub struct PendingPair {
    pair: QueuePair,
    local: Endpoint,
    gid_index: u8,
}

impl PendingPair {
    /// A new end on an active port.
    ///
    /// # Errors
    /// The port is not to be used, or the device has no more room.
    pub fn new(domain: &ProtectionDomain, options: PairOptions) -> Result<Self, ConnectError> {
        let context = domain.0.context();
        let (device, number) = (|| context.name().to_owned(), options.port);
        let port = domain.device().ports()?.into_iter().find(|port| port.number == number);
        let port = port.ok_or_else(|| ConnectError::NoPort { device: device(), port: number })?;
        if port.state != PortState::Active {
            let state = port.state;
            return Err(ConnectError::PortDown { device: device(), port: number, state });
        }
        let gid = port.best_gid();
        let gid = gid.ok_or_else(|| ConnectError::NoAddress { device: device(), port: number })?;
        let pair = QueuePair::new(&domain.0, options)?;
        let local = Endpoint {
            link: match port.link_layer {
                LinkLayer::InfiniBand => Link::InfiniBand,
                LinkLayer::Ethernet => Link::Ethernet,
            },
            mtu_bytes: port.mtu_bytes,
            number: pair.number,
            packet_sequence: first_packet()?,
            local_id: port.local_id,
            reads: context.served_reads,
            global_id: gid.address.octets(),
        };
        Ok(Self { pair, local, gid_index: gid.index })
    }

    /// What the other side has to know.
    pub fn local(&self) -> Endpoint {
        self.local
    }

    /// As [`QueuePair::receive`].
    ///
    /// # Errors
    /// As there.
    pub fn receive(&mut self, id: u64, into: Option<Piece<'_>>) -> Result<(), PostError> {
        self.pair.receive(id, into)
    }

    /// Joins it with the other end. Both sides do so, in any order; who sends before the other side
    /// has is asked to wait by retries.
    ///
    /// # Errors
    /// The ends do not fit, or the device refuses.
    pub fn connect(self, peer: &Endpoint) -> Result<QueuePair, ConnectError> {
        let (ours, theirs) = (self.local.link, peer.link);
        if ours != theirs {
            return Err(ConnectError::Links { ours, theirs });
        }
        self.ready_to_receive(peer)?;
        self.ready_to_send(peer)?;
        Ok(self.pair)
    }

    fn ready_to_receive(&self, peer: &Endpoint) -> Result<(), VerbError> {
        let mut attributes = attributes(IBV_QPS_RTR);
        attributes.path_mtu = mtu_code(self.local.mtu_bytes.min(peer.mtu_bytes));
        attributes.dest_qp_num = peer.number;
        attributes.rq_psn = peer.packet_sequence;
        attributes.max_dest_rd_atomic = self.local.reads;
        attributes.min_rnr_timer = RECEIVER_PAUSE;
        let path = &mut attributes.ah_attr;
        path.port_num = self.pair.port;
        path.dlid = peer.local_id;
        path.is_global = 1;
        path.grh.dgid = ibv_gid { raw: peer.global_id };
        path.grh.sgid_index = self.gid_index;
        path.grh.hop_limit = HOP_LIMIT;
        let mask = IBV_QP_AV
            | IBV_QP_PATH_MTU
            | IBV_QP_DEST_QPN
            | IBV_QP_RQ_PSN
            | IBV_QP_MAX_DEST_RD_ATOMIC
            | IBV_QP_MIN_RNR_TIMER;
        self.pair.modify("ibv_modify_qp to RTR", attributes, mask)
    }

    fn ready_to_send(&self, peer: &Endpoint) -> Result<(), VerbError> {
        let mut attributes = attributes(IBV_QPS_RTS);
        attributes.timeout = ANSWER_TIME;
        attributes.retry_cnt = RETRIES;
        attributes.rnr_retry = RECEIVER_RETRIES;
        attributes.sq_psn = self.local.packet_sequence;
        attributes.max_rd_atomic = self.pair.context().made_reads.min(peer.reads);
        let mask = IBV_QP_TIMEOUT
            | IBV_QP_RETRY_CNT
            | IBV_QP_RNR_RETRY
            | IBV_QP_SQ_PSN
            | IBV_QP_MAX_QP_RD_ATOMIC;
        self.pair.modify("ibv_modify_qp to RTS", attributes, mask)
    }
}

/// One end of a connection. One thread at a time uses it.
#[derive(Debug)]
pub struct QueuePair {
    raw: NonNull<ibv_qp>,
    number: u32,
    port: u8,
    completions: CompletionQueue,
    sends: Slots,
    receives: Slots,
    domain: Arc<Domain>,
}

// SAFETY: verbs may be called from any thread; the pointer is freed once, by drop.
unsafe impl Send for QueuePair {}

impl QueuePair {
    fn new(domain: &Arc<Domain>, options: PairOptions) -> Result<Self, VerbError> {
        let context = domain.context();
        let room = options.send_depth.saturating_add(options.receive_depth);
        let completions = CompletionQueue::new(context, room)?;
        let mut wanted = MaybeUninit::<ibv_qp_init_attr>::zeroed();
        // SAFETY: zeros are a value of every field: null pointers and numbers.
        let wanted = unsafe { wanted.assume_init_mut() };
        wanted.send_cq = completions.raw();
        wanted.recv_cq = completions.raw();
        wanted.cap.max_send_wr = options.send_depth;
        wanted.cap.max_recv_wr = options.receive_depth;
        wanted.cap.max_send_sge = 1;
        wanted.cap.max_recv_sge = 1;
        wanted.qp_type = IBV_QPT_RC;
        wanted.sq_sig_all = 1;
        // SAFETY: domain and completion queue are alive, and this value keeps them so.
        let raw = unsafe { context.verbs().ibv_create_qp(domain.raw(), wanted) };
        let raw = context.made("ibv_create_qp", raw)?;
        let pair = Self {
            raw,
            // SAFETY: the queue pair was just made; its number does not change.
            number: unsafe { raw.as_ref() }.qp_num,
            port: options.port,
            completions,
            sends: Slots::new(options.send_depth, SENDS),
            receives: Slots::new(options.receive_depth, RECEIVES),
            domain: domain.clone(),
        };
        pair.initialise()?;
        Ok(pair)
    }

    /// Its number on the device.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Writes into the other side's memory, which is told nothing of it.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn write(&mut self, id: u64, from: Piece<'_>, to: Target) -> Result<(), PostError> {
        let address = to.address(from.length_bytes)?;
        self.post(id, Work::Write, from, |request| {
            request.opcode = IBV_WR_RDMA_WRITE;
            set_target(request, address, to.memory.key);
        })
    }

    /// Writes into the other side's memory, where a receive then completes with `immediate`.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn write_with_immediate(
        &mut self,
        id: u64,
        from: Piece<'_>,
        to: Target,
        immediate: u32,
    ) -> Result<(), PostError> {
        let address = to.address(from.length_bytes)?;
        self.post(id, Work::Write, from, |request| {
            request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
            request.__bindgen_anon_1.imm_data = immediate.to_be();
            set_target(request, address, to.memory.key);
        })
    }

    /// Reads from the other side's memory, which does not notice.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn read(&mut self, id: u64, into: Piece<'_>, from: Target) -> Result<(), PostError> {
        let address = from.address(into.length_bytes)?;
        self.post(id, Work::Read, into, |request| {
            request.opcode = IBV_WR_RDMA_READ;
            set_target(request, address, from.memory.key);
        })
    }

    /// Sends a message; the other side must have a place for it.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn send(&mut self, id: u64, from: Piece<'_>) -> Result<(), PostError> {
        self.post(id, Work::Send, from, |request| request.opcode = IBV_WR_SEND)
    }

    /// A place for one message, or without one only for the word that something was written.
    ///
    /// # Errors
    /// It is not accepted.
    pub fn receive(&mut self, id: u64, into: Option<Piece<'_>>) -> Result<(), PostError> {
        let region = into.map(|piece| self.of_this_domain(piece)).transpose()?;
        let post = self.context().operations().post_recv;
        let post = post.ok_or_else(|| unsupported(self.context(), "post_recv"))?;
        let slot = self.receives.take(Slot::new(id, Work::Receive, region))?;
        let mut entry = into.map(|piece| piece.entry());
        let mut request = ibv_recv_wr {
            wr_id: slot,
            next: ptr::null_mut(),
            num_sge: entry.iter().len() as i32,
            sg_list: entry.as_mut().map_or(ptr::null_mut(), ptr::from_mut),
        };
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is alive; request and entry live for the call, which copies them; the
        // memory stays registered until the slot is free again.
        let code = unsafe { post(self.raw.as_ptr(), &raw mut request, &raw mut bad) };
        let posted = self.context().check("ibv_post_recv", code);
        if posted.is_err() {
            self.receives.free(slot);
        }
        Ok(posted?)
    }

    /// Appends what has ended by now; returns how many that were.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn poll(&mut self, into: &mut Vec<Completion>) -> Result<usize, VerbError> {
        let mut done = Vec::new();
        self.completions.poll(&mut done)?;
        Ok(self.settle(&done, into))
    }

    /// As [`Self::poll`], and waits for the first. A peer that is gone is noticed by work only: a
    /// receive alone waits for ever, so it is `patience` that ends the wait.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn wait(
        &mut self,
        into: &mut Vec<Completion>,
        patience: Duration,
    ) -> Result<usize, VerbError> {
        self.wait_beside(into, None, patience)
    }

    /// As [`Self::wait`], and no longer than until something can be read of `beside`.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn wait_beside(
        &mut self,
        into: &mut Vec<Completion>,
        beside: Option<BorrowedFd<'_>>,
        patience: Duration,
    ) -> Result<usize, VerbError> {
        let mut done = Vec::new();
        self.completions.wait(&mut done, beside, patience)?;
        Ok(self.settle(&done, into))
    }

    /// How much may be under way: sends, writes and reads.
    pub fn send_room(&self) -> usize {
        self.sends.room()
    }

    fn post(
        &mut self,
        id: u64,
        work: Work,
        piece: Piece<'_>,
        shape: impl FnOnce(&mut ibv_send_wr),
    ) -> Result<(), PostError> {
        let region = Some(self.of_this_domain(piece)?);
        let post = self.context().operations().post_send;
        let post = post.ok_or_else(|| unsupported(self.context(), "post_send"))?;
        let slot = self.sends.take(Slot::new(id, work, region))?;
        let mut entry = piece.entry();
        let mut request = MaybeUninit::<ibv_send_wr>::zeroed();
        // SAFETY: zeros are a value of every field: null pointers and numbers.
        let request = unsafe { request.assume_init_mut() };
        request.wr_id = slot;
        request.sg_list = &raw mut entry;
        request.num_sge = 1;
        shape(request);
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair is alive; request and entry live for the call, which copies them; the
        // memory stays registered until the slot is free again.
        let code = unsafe { post(self.raw.as_ptr(), request, &raw mut bad) };
        let posted = self.context().check("ibv_post_send", code);
        if posted.is_err() {
            self.sends.free(slot);
        }
        Ok(posted?)
    }

    fn of_this_domain(&self, piece: Piece<'_>) -> Result<Arc<MemoryRegion>, PostError> {
        match Arc::ptr_eq(&piece.region.domain, &self.domain) {
            true => Ok(piece.region.clone()),
            false => Err(PostError::OtherDomain),
        }
    }

    fn settle(&mut self, done: &[ibv_wc], into: &mut Vec<Completion>) -> usize {
        let before = into.len();
        for entry in done {
            let slots = if entry.wr_id < RECEIVES { &mut self.sends } else { &mut self.receives };
            if let Some((id, work)) = slots.free(entry.wr_id) {
                into.push(Completion { id, work, outcome: self.outcome(work, entry) });
            }
        }
        into.len() - before
    }

    fn outcome(&self, work: Work, entry: &ibv_wc) -> Result<Done, WorkError> {
        if entry.status == IBV_WC_SUCCESS {
            // SAFETY: both forms of the union are one number.
            let immediate = unsafe { entry.__bindgen_anon_1.imm_data };
            let has_immediate = entry.wc_flags & IBV_WC_WITH_IMM != 0;
            let bytes = if matches!(work, Work::Read | Work::Receive) { entry.byte_len } else { 0 };
            let immediate = has_immediate.then(|| u32::from_be(immediate));
            return Ok(Done { bytes, immediate });
        }
        Err(WorkError {
            work,
            device: self.context().name().to_owned(),
            pair: self.number,
            failure: entry.status.into(),
            port: self.port,
            state: self.context().port_state(self.port),
        })
    }

    fn initialise(&self) -> Result<(), VerbError> {
        let mut attributes = attributes(IBV_QPS_INIT);
        attributes.port_num = self.port;
        // Which memory is open, and for what, is said where it is registered.
        attributes.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
        let mask = IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS;
        self.modify("ibv_modify_qp to INIT", attributes, mask)
    }

    fn modify(
        &self,
        call: &'static str,
        mut attributes: ibv_qp_attr,
        mask: ibv_qp_attr_mask,
    ) -> Result<(), VerbError> {
        let mask = (mask | IBV_QP_STATE) as i32;
        // SAFETY: the queue pair is alive, and so are the attributes for the call.
        let code = unsafe {
            let attributes = &raw mut attributes;
            self.context().verbs().ibv_modify_qp(self.raw.as_ptr(), attributes, mask)
        };
        self.context().check(call, code)
    }

    fn context(&self) -> &Context {
        self.domain.context()
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: the pointer is ours and not used again; completion queue and domain, which it uses,
        // are dropped after this.
        let code = unsafe { self.context().verbs().ibv_destroy_qp(self.raw.as_ptr()) };
        if code != 0 {
            // Its work may go on: the memory stays for as long as the process.
            self.sends.forget();
            self.receives.forget();
        }
    }
}

fn set_target(request: &mut ibv_send_wr, remote_addr: u64, rkey: u32) {
    request.wr.rdma = ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr, rkey };
}

fn attributes(state: ibv_qp_state) -> ibv_qp_attr {
    // SAFETY: zeros are a value of every field: plain numbers all of them.
    let zeroed = unsafe { MaybeUninit::<ibv_qp_attr>::zeroed().assume_init() };
    ibv_qp_attr { qp_state: state, ..zeroed }
}

fn mtu_code(mtu_bytes: u16) -> ibv_mtu {
    match mtu_bytes {
        0..512 => IBV_MTU_256,
        512..1024 => IBV_MTU_512,
        1024..2048 => IBV_MTU_1024,
        2048..4096 => IBV_MTU_2048,
        4096.. => IBV_MTU_4096,
    }
}

/// Packet numbers begin anywhere, so that those of an earlier connection are not taken for ours.
fn first_packet() -> Result<u32, ConnectError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| ConnectError::Random(error.to_string()))?;
    Ok(u32::from_ne_bytes(bytes) & MAX_24_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_packets_become_codes() {
        let codes = [256, 512, 1024, 2048, 4096].map(mtu_code);
        assert_eq!(codes, [IBV_MTU_256, IBV_MTU_512, IBV_MTU_1024, IBV_MTU_2048, IBV_MTU_4096]);
    }

    #[test]
    fn packets_are_numbered_with_24_bits() {
        let numbers: Vec<u32> = (0..8).map(|_| first_packet().unwrap()).collect();
        assert!(numbers.iter().all(|number| *number <= MAX_24_BITS));
        assert!(numbers.iter().any(|number| *number != numbers[0]), "{numbers:?}");
    }
}
