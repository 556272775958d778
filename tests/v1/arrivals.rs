//! Guests that come from a v1 peer by hand.

use crate::hand::{assert_hung_up, f8_frames, f16_frames, image, packet, plain, send};
use crate::stage::{Directory, PAGES, Port, connections, node, options, wait_until};
use crate::support::Guest;
use dwcp::Status;
use dwcp::migration::{Dialect, V1Options};
use dwcp::observe::{ConnectionState, EventKind};
use dwcp::wire::v1::{f8, f16, hde};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

fn dial(port: &Port, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| port.dial()).collect()
}

/// Sends these bytes on one connection, and gives it back.
fn write(port: &Port, bytes: &[u8]) -> TcpStream {
    let mut socket = port.dial();
    socket.write_all(bytes).unwrap();
    socket
}

/// A whole image, and then the guest is there: whatever came before has left the port usable.
fn assert_takes(port: &Port, dialect: Dialect) {
    let (image, count) = (image(7), port.node.migrations().len());
    match dialect {
        Dialect::F16 => send(dial(port, 3), &f16_frames(&packet(&image))),
        Dialect::F8 => send(dial(port, 3), &f8_frames(&image)),
        Dialect::Plain => drop(write(port, &plain(&image))),
    }
    port.assert_arrived(&port.report(count + 1), &image);
}

fn refusals(port: &Port) -> Vec<String> {
    connections(&port.node, ConnectionState::Refused)
}

/// What closed connections said.
fn wait_for_closed(port: &Port, text: &str) {
    wait_until(text, || {
        connections(&port.node, ConnectionState::Closed).iter().any(|detail| detail.contains(text))
    });
}

#[test]
fn images_come_by_every_dialect_in_any_order_over_any_connections() {
    let mut rng = fastrand::Rng::with_seed(3);
    for round in 0..4 {
        let image = image(round);
        for (dialect, mut frames) in
            [(Dialect::F16, f16_frames(&packet(&image))), (Dialect::F8, f8_frames(&image))]
        {
            let port = Port::new(options(dialect));
            rng.shuffle(&mut frames);
            send(dial(&port, rng.usize(1..=16)), &frames);
            let report = port.report(1);
            port.assert_arrived(&report, &image);
            assert_eq!(report.full_pages, PAGES);
        }
        assert_takes(&Port::new(options(Dialect::Plain)), Dialect::Plain);
    }
}

#[test]
fn what_was_in_the_guest_before_is_gone() {
    let port = Port::new(options(Dialect::F8));
    port.guest.fill(100);
    assert_takes(&port, Dialect::F8);
}

#[test]
fn an_image_that_is_labelled_as_a_difference_is_taken() {
    let (port, image) = (Port::new(options(Dialect::F16)), image(1));
    let mut packet = packet(&image);
    packet[0] = 1;
    send(dial(&port, 2), &f16_frames(&packet));
    port.assert_arrived(&port.report(1), &image);
}

#[test]
fn a_difference_is_refused_as_nobody_can_tell_from_what() {
    let (port, before, after) = (Port::new(options(Dialect::F16)), image(1), image(2));
    let delta = hde::Delta::between(b"vm1_memory", &before, &after);
    send(dial(&port, 1), &f16_frames(&hde::pack_delta(&delta, hde::Tier::Local).unwrap()));
    let text = "a difference from \"vm1_memory\"";
    port.assert_failed(&port.report(1), Status::Unsupported, text);
    assert_takes(&port, Dialect::F16);
}

#[test]
fn an_image_of_another_size_is_refused() {
    let port = Port::new(options(Dialect::F16));
    let whole = image(1);
    send(dial(&port, 1), &f16_frames(&packet(&whole[4096..])));
    let text = "the image has 2863104 bytes, the guest 2867200";
    port.assert_failed(&port.report(1), Status::LayoutMismatch, text);
    // What unpacks to more than the guest has is not unpacked to its end.
    send(dial(&port, 1), &f16_frames(&packet(&vec![0; 64 << 20])));
    port.assert_failed(&port.report(2), Status::Corrupt, "over the limit of 2867200 bytes");
    send(dial(&port, 1), &f16_frames(&[7; 100_000]));
    port.assert_failed(&port.report(3), Status::Corrupt, "packet's delta flag");
    assert_takes(&port, Dialect::F16);
}

fn f16_header(id: u32, offset_bytes: u32, payload_bytes: u32, total_bytes: u32) -> Vec<u8> {
    f16::ChunkHeader { id, offset_bytes, payload_bytes, total_bytes }.encode().to_vec()
}

fn f8_header(id: u32, payload_bytes: u32) -> Vec<u8> {
    f8::ChunkHeader { id, payload_bytes }.encode().to_vec()
}

#[test]
fn what_does_not_fit_the_guest_never_claims_it_and_reserves_nothing() {
    let cases = [
        (Dialect::F16, f16_header(0, 0, 65_536, u32::MAX), "F16 transfer is 4294967295 long"),
        (Dialect::F16, f16_header(0, 0, 16 << 20, 16 << 20), "F16 transfer is 16777216 long"),
        (Dialect::F16, f16_header(0, 0, 17 << 20, 18 << 20), "F16 chunk is 17825792 long"),
        (Dialect::F16, f16_header(5000, 0, 65_536, 1 << 20), "F16 chunk's number is 5000"),
        (Dialect::F16, b"HANDSHAKE|1.0|local|[HDE AMST DELTA]|1700000000".to_vec(), "F16"),
        (Dialect::F16, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "F16"),
        (Dialect::F16, vec![0xff; 16], "F16"),
        (Dialect::F8, f8_header(99, 262_144), "F8 chunk's number is 99"),
        (Dialect::F8, f8_header(0, 1000), "F8 chunk's length is 1000"),
        (Dialect::F8, f8_header(0, 16 << 20), "F8 chunk's length is 16777216"),
        (Dialect::F8, vec![0xff; 8], "F8 chunk is 4294967295 long"),
        (Dialect::F8, vec![0; 8], "F8 chunk's length is 0"),
        (Dialect::Plain, (8_u64 << 30).to_be_bytes().to_vec(), "plain image is 8589934592 long"),
        (Dialect::Plain, vec![0; 8], "plain image's length is 0"),
    ];
    for (dialect, bytes, text) in cases {
        let port = Port::new(options(dialect));
        assert_hung_up(write(&port, &bytes));
        wait_for_closed(&port, text);
        assert!(port.node.migrations().is_empty() && port.guest.endings().is_empty(), "{text}");
        assert_eq!(port.node.guests()[0].migration, None);
        assert_takes(&port, dialect);
    }
}

#[test]
fn what_does_not_fit_a_transfer_under_way_ends_it() {
    let image = image(1);
    let (packet, f8) = (f16_frames(&packet(&image)), f8_frames(&image));
    let total = u32::from_be_bytes(packet[0][12..16].try_into().unwrap());
    let cases = [
        (Dialect::F16, f16_header(1, 65_536, 65_536, total + 1), "F16 transfer's length"),
        (Dialect::F16, f16_header(5000, 65_536, 65_536, total), "F16 chunk's number is 5000"),
        (Dialect::F16, f16_header(0, 0, 65_536, total), "one that has not come yet"),
        (Dialect::F16, vec![0xff; 16], "F16 chunk is 4294967295 long"),
        (Dialect::F8, f8_header(99, 262_144), "F8 chunk's number is 99"),
        (Dialect::F8, f8_header(1, 1000), "F8 chunk's length is 1000"),
        (Dialect::F8, f8_header(0, 262_144), "one that has not come yet"),
        (Dialect::F8, vec![0xff; 8], "F8 chunk is 4294967295 long"),
    ];
    for (dialect, bytes, text) in cases {
        let port = Port::new(options(dialect));
        let first = if dialect == Dialect::F16 { &packet[0] } else { &f8[0] };
        let socket = write(&port, &[&first[..], &bytes].concat());
        let report = port.report(1);
        port.assert_failed(&report, report.status, text);
        assert!([Status::BadFrame, Status::LimitReached].contains(&report.status), "{report:?}");
        assert_hung_up(socket);
        assert_takes(&port, dialect);
    }
}

#[test]
fn a_connection_cut_within_a_frame_fails_the_transfer() {
    let image = image(1);
    for (dialect, frames) in [
        (Dialect::F16, f16_frames(&packet(&image))),
        (Dialect::F8, f8_frames(&image)),
        (Dialect::Plain, vec![plain(&image)]),
    ] {
        for length in [frames[0].len() - 1, frames[0].len() / 2, 40] {
            let port = Port::new(options(dialect));
            drop(write(&port, &frames[0][..length]));
            let report = port.report(1);
            port.assert_failed(&report, Status::ConnectionLost, "it hung up");
            assert_takes(&port, dialect);
        }
    }
}

#[test]
fn a_peer_that_hangs_up_between_frames_and_stays_away_fails_the_transfer() {
    let (port, image) = (Port::new(options(Dialect::F8)), image(1));
    let frames = f8_frames(&image);
    send(dial(&port, 3), &frames[..frames.len() - 1]);
    let text = "the v1 peer hung up with 2621440 of 2867200 bytes";
    port.assert_failed(&port.report(1), Status::ConnectionLost, text);
    assert_takes(&port, Dialect::F8);
}

#[test]
fn a_silent_peer_times_out_whether_between_frames_or_within_one() {
    let (image, idle_timeout) = (image(1), Duration::from_secs(1));
    for cut in [f8_frames(&image)[0].len(), 5000] {
        let port = Port::new(V1Options { idle_timeout, ..options(Dialect::F8) });
        let socket = write(&port, &f8_frames(&image)[0][..cut]);
        let report = port.report(1);
        assert_eq!((report.status, report.owner.name()), (Status::PeerStalled, "source"));
        assert_hung_up(socket);
        assert_takes(&port, Dialect::F8);
    }
}

#[test]
fn a_peer_that_drips_cannot_hold_the_guest() {
    let idle_timeout = Duration::from_secs(1);
    let port = Port::new(V1Options { idle_timeout, ..options(Dialect::F8) });
    let frame = f8_frames(&image(1)).remove(0);
    let mut socket = port.dial();
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Byte by byte: each comes in time, the chunk does not.
            for byte in &frame {
                if socket.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        port.report(1)
    });
    // Its connection notices it, or the image that waits for it; both give the time.
    port.assert_failed(&report, Status::PeerStalled, " 1s");
    assert_takes(&port, Dialect::F8);
}

#[test]
fn a_transfer_that_goes_on_for_ever_is_ended() {
    let transfer_timeout = Duration::from_secs(1);
    let port = Port::new(V1Options { transfer_timeout, ..options(Dialect::F8) });
    let frames = f8_frames(&image(1));
    let mut socket = port.dial();
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            for frame in &frames {
                if socket.write_all(frame).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        port.report(1)
    });
    port.assert_failed(&report, Status::Timeout, "not whole within 1s");
}

#[test]
fn a_quiet_connection_is_closed_and_a_quiet_stream_of_a_transfer_is_not() {
    let idle_timeout = Duration::from_secs(3);
    let port = Port::new(V1Options { idle_timeout, ..options(Dialect::F8) });
    let (image, quiet) = (image(1), port.dial());
    assert_hung_up(quiet);
    wait_for_closed(&port, "no chunk came for 3s");
    let (quiet, mut busy) = (port.dial(), port.dial());
    for frame in f8_frames(&image) {
        busy.write_all(&frame).unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    port.assert_arrived(&port.report(1), &image);
    assert_hung_up(quiet);
}

#[test]
fn others_are_kept_out_while_one_sends() {
    let (port, image) = (Port::new(options(Dialect::F8)), image(1));
    let frames = f8_frames(&image);
    let mut socket = write(&port, &frames[0]);
    wait_until("the arrival begins", || !port.node.migrations().is_empty());
    assert_hung_up(port.dial_from("127.0.0.2"));
    wait_until("it is refused", || !refusals(&port).is_empty());
    assert!(refusals(&port)[0].contains("a guest is being received from 127.0.0.1"));
    frames[1..].iter().for_each(|frame| socket.write_all(frame).unwrap());
    port.assert_arrived(&port.report(1), &image);
}

#[test]
fn who_came_in_before_a_transfer_of_another_address_has_no_part_in_it() {
    let idle_timeout = Duration::from_secs(3);
    let port = Port::new(V1Options { idle_timeout, ..options(Dialect::F8) });
    let image = image(1);
    let frames = f8_frames(&image);
    let mut strangers = [(); 3].map(|()| port.dial_from("127.0.0.2"));
    wait_until("they are in", || connections(&port.node, ConnectionState::Open).len() == 3);
    let mut socket = write(&port, &frames[0]);
    wait_until("the arrival begins", || !port.node.migrations().is_empty());
    // One sends what would fit, one what fits nothing, and one is silent.
    strangers[0].write_all(&frames[1]).unwrap();
    wait_for_closed(&port, "a guest is being received from 127.0.0.1");
    strangers[1].write_all(&[0xff; 8]).unwrap();
    wait_for_closed(&port, "F8 chunk is 4294967295 long");
    for frame in &frames[1..] {
        socket.write_all(frame).unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    port.assert_arrived(&port.report(1), &image);
    wait_for_closed(&port, "no chunk came for 3s");
    strangers.into_iter().for_each(assert_hung_up);
}

#[test]
fn there_are_only_so_many_connections_and_idle_ones_make_room() {
    let port = Port::new(V1Options { max_connections: 2, ..options(Dialect::F8) });
    let idle = [(); 2].map(|()| port.dial_from("127.0.0.2"));
    wait_until("two are open", || connections(&port.node, ConnectionState::Open).len() == 2);
    let image = image(1);
    let frames = f8_frames(&image);
    let mut busy = [write(&port, &frames[0]), write(&port, &frames[1])];
    idle.into_iter().for_each(assert_hung_up);
    let bytes = |port: &Port| port.node.migrations().first().map(|m| m.progress().wire_bytes);
    wait_until("both have joined", || bytes(&port) == Some(524_288));
    assert_hung_up(port.dial());
    wait_until("the third is refused", || !refusals(&port).is_empty());
    assert_eq!(refusals(&port), ["there are 2 v1 connections already"]);
    for (at, frame) in frames[2..].iter().enumerate() {
        busy[at % 2].write_all(frame).unwrap();
    }
    port.assert_arrived(&port.report(1), &image);
}

#[test]
fn idle_connections_of_a_transfer_under_way_make_no_room() {
    let port = Port::new(V1Options { max_connections: 2, ..options(Dialect::F8) });
    let image = image(1);
    let frames = f8_frames(&image);
    let mut idle = port.dial();
    wait_until("it is in", || connections(&port.node, ConnectionState::Open).len() == 1);
    let mut busy = write(&port, &frames[0]);
    wait_until("the arrival begins", || !port.node.migrations().is_empty());
    assert_hung_up(port.dial());
    wait_until("the third is refused", || !refusals(&port).is_empty());
    for (at, frame) in frames[1..].iter().enumerate() {
        if at % 2 == 0 { &mut idle } else { &mut busy }.write_all(frame).unwrap();
    }
    port.assert_arrived(&port.report(1), &image);
}

#[test]
fn as_many_connections_come_in_as_v1_ever_opens() {
    let (port, image) = (Port::new(options(Dialect::F8)), image(1));
    let mut sockets = dial(&port, 256);
    let is_full = || connections(&port.node, ConnectionState::Open).len() == 256;
    wait_until("all are in", is_full);
    for (at, frame) in f8_frames(&image).iter().enumerate() {
        sockets[at * 20].write_all(frame).unwrap();
    }
    port.assert_arrived(&port.report(1), &image);
    assert!(refusals(&port).is_empty());
    sockets.into_iter().for_each(assert_hung_up);
}

#[test]
fn a_guest_must_be_expected_and_be_the_one_that_was_named() {
    let frames = f8_frames(&image(1));
    let port = Port::new(options(Dialect::F8));
    port.node.remove_guest("vm").unwrap();
    assert_hung_up(write(&port, &frames[0]));
    wait_for_closed(&port, "no guest is expected here that could take an image");
    let (other, guest) = (Guest::new(PAGES, 0), Guest::new(PAGES, 0));
    port.node.add_destination("other", other.sink()).unwrap();
    port.node.add_destination("vm", port.guest.sink()).unwrap();
    assert_hung_up(write(&port, &frames[0]));
    wait_for_closed(&port, "several guests are expected here");
    let named = |name: &str| V1Options { guest: name.into(), ..options(Dialect::F8) };
    port.node.set_v1(named("nobody")).unwrap();
    assert_hung_up(write(&port, &frames[0]));
    wait_for_closed(&port, "no guest \"nobody\" is expected here");
    port.node.add_source("runs", guest.source()).unwrap();
    port.node.set_v1(named("runs")).unwrap();
    assert_hung_up(write(&port, &frames[0]));
    wait_for_closed(&port, "guest \"runs\" runs here");
    assert!(port.node.migrations().is_empty());
    port.node.set_v1(named("vm")).unwrap();
    send(dial(&port, 2), &frames);
    port.report(1);
    assert!(port.guest.image() == image(1));
    assert!(other.endings().is_empty() && guest.endings().is_empty());
}

#[test]
fn a_guest_that_is_larger_than_allowed_is_not_taken() {
    let port = Port::new(V1Options { max_image_bytes: 1 << 20, ..options(Dialect::F8) });
    assert_hung_up(write(&port, &f8_frames(&image(1))[0]));
    wait_for_closed(&port, "the limit is 1048576 (by v1.max_image)");
    assert_eq!(port.node.guests()[0].migration, None, "it was given back");
}

#[test]
fn a_hypervisor_that_fails_discards_the_image() {
    let port = Port::new(options(Dialect::F8));
    port.guest.fail_at(Some("write_pages"));
    let socket = write(&port, &f8_frames(&image(1))[0]);
    port.assert_failed(&port.report(1), Status::Callback, "write_pages failed");
    assert_hung_up(socket);
    port.guest.fail_at(None);
    assert_takes(&port, Dialect::F8);
}

#[test]
fn a_record_that_cannot_be_written_discards_the_image() {
    let directory = Directory::new();
    let guest = Guest::new(PAGES, 0);
    let port = Port::with(node("beta", Some(&directory.0)), options(Dialect::F8), guest);
    std::fs::remove_dir_all(&directory.0).unwrap();
    let socket = write(&port, &f8_frames(&image(1))[0]);
    port.assert_failed(&port.report(1), Status::StateFile, "state file");
    assert_hung_up(socket);
}

#[test]
fn a_cancel_discards_what_came() {
    let port = Port::new(options(Dialect::F8));
    let socket = write(&port, &f8_frames(&image(1))[0]);
    wait_until("the arrival begins", || !port.node.migrations().is_empty());
    port.node.migrations()[0].cancel();
    port.assert_failed(&port.report(1), Status::Cancelled, "cancelled at the destination");
    assert_hung_up(socket);
    assert_takes(&port, Dialect::F8);
}

#[test]
fn an_arrival_ends_with_its_node() {
    let port = Port::new(options(Dialect::F8));
    let socket = write(&port, &f8_frames(&image(1))[0]);
    wait_until("the arrival begins", || !port.node.migrations().is_empty());
    let migration = port.node.migrations().remove(0);
    port.node.stop();
    assert_eq!(migration.report().expect("the node waits").status, Status::Cancelled);
    assert_hung_up(socket);
    assert!(TcpStream::connect(port.address).is_err(), "the port is closed");
}

#[test]
fn each_connection_is_an_event() {
    let (port, image) = (Port::new(options(Dialect::Plain)), image(1));
    drop(write(&port, &plain(&image)));
    port.assert_arrived(&port.report(1), &image);
    wait_for_closed(&port, "2867200 bytes came");
    let event = |event: dwcp::observe::Event| match event.kind {
        EventKind::V1Connection { peer, dialect, .. } => Some((peer, dialect)),
        _ => None,
    };
    let told: Vec<_> = port.node.events(0).into_iter().filter_map(event).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter().all(|(peer, dialect)| peer.starts_with("127.0.0.1:") && *dialect == "plain")
    );
}
