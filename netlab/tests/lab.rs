//! The laboratory on the real kernel: what is configured is what sockets see. Needs root.

use dwcp_netlab::shaper::SplitMix;
use dwcp_netlab::{Direction, Host, Lab, LinkConfig};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[test]
fn the_round_trip_time_is_the_configured_one() -> Outcome {
    let rtt = Duration::from_millis(80);
    let lab = Lab::emulated(LinkConfig::default().rtt(rtt))?;
    let (mut near, mut far) = connect(&lab, lab.b().ipv4().into())?;
    let echo = std::thread::spawn(move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
    });
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        near.write_all(&[1])?;
        near.read_exact(&mut [0])?;
        times.push(start.elapsed());
    }
    times.sort();
    assert!(times[0] >= rtt, "{times:?}");
    assert!(times[times.len() / 2] < rtt * 3 / 2, "{times:?}");
    drop(near);
    echo.join().map_err(|_| "echo thread")?;
    Ok(())
}

#[test]
fn datagrams_are_lost_with_the_configured_probability() -> Outcome {
    const DATAGRAMS: u64 = 20_000;
    const LOSS: f64 = 0.05;
    let lab = Lab::emulated_with_seed(LinkConfig::default().loss(LOSS), 4)?;
    let receiver = lab.b().enter(|| UdpSocket::bind((lab.b().ipv4(), 0)))?;
    receiver.set_nonblocking(true)?;
    let sender = lab.a().enter(|| UdpSocket::bind((lab.a().ipv4(), 0)))?;
    let before = lab.stats(Direction::AToB);
    let mut received = 0;
    for sent in 1..=DATAGRAMS {
        sender.send_to(&[7; 100], receiver.local_addr()?)?;
        if sent % 50 == 0 {
            // Keeps the socket's buffer from overflowing: that would be another loss.
            wait_until("the link took all", || {
                while receiver.recv(&mut [0; 200]).is_ok() {
                    received += 1;
                }
                // What the kernel sends of its own is delivered as well: it asks for routers.
                received + lab.stats(Direction::AToB).lost - before.lost >= sent
            });
        }
    }
    assert_eq!(lab.a().overruns()?, 0);
    let lost = (DATAGRAMS - received) as f64;
    let expected = DATAGRAMS as f64 * LOSS;
    let deviation = (expected * (1.0 - LOSS)).sqrt();
    assert!((lost - expected).abs() < 5.0 * deviation, "{lost} lost, {expected} expected");
    Ok(())
}

#[test]
fn a_lossy_link_cuts_super_packets_and_keeps_a_stream_whole() -> Outcome {
    const BYTES: usize = 32 << 20;
    const LOSS: f64 = 0.002;
    let lab = Lab::emulated_with_seed(LinkConfig::default().loss(LOSS), 5)?;
    let (mut near, mut far) = connect(&lab, lab.b().ipv6().into())?;
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let mut random = SplitMix(6);
        for _ in 0..BYTES / 4096 {
            near.write_all(&noise(&mut random))?;
        }
        Ok(())
    });
    let mut random = SplitMix(6);
    let mut piece = [0; 4096];
    for at in 0..BYTES / 4096 {
        far.read_exact(&mut piece)?;
        assert!(piece == noise(&mut random), "piece {at} came changed");
    }
    writer.join().map_err(|_| "writer thread")??;
    let stats = lab.stats(Direction::AToB);
    assert!(stats.offered >= (BYTES / 1500) as u64, "segments count, not super-packets: {stats:?}");
    let expected = stats.offered as f64 * LOSS;
    assert!((stats.lost as f64 - expected).abs() < 5.0 * expected.sqrt(), "{stats:?}");
    assert_eq!((stats.rejected, stats.link_down), (0, 0), "{stats:?}");
    Ok(())
}

#[test]
fn a_stream_gets_the_configured_rate() -> Outcome {
    const RATE: u64 = 60_000_000;
    let lab = Lab::emulated(LinkConfig::default().rate(RATE).rtt(Duration::from_millis(10)))?;
    let (mut near, mut far) = connect(&lab, lab.b().ipv4().into())?;
    let writer = std::thread::spawn(move || while near.write_all(&[3; 64 * 1024]).is_ok() {});
    let (start, mut piece, mut total) = (Instant::now(), vec![0; 256 * 1024], 0);
    // 1448 of 1500 bytes are payload. A busy machine may take several windows to fill the link.
    let fits = RATE as f64 / 8.0 * 1448.0 / 1500.0;
    let mut best: f64 = 0.0;
    while best < 0.9 && start.elapsed() < LONG {
        let window = Instant::now();
        let bytes = read_for(&mut far, &mut piece, Duration::from_secs(1))?;
        total += bytes;
        best = best.max(bytes as f64 / window.elapsed().as_secs_f64() / fits);
    }
    assert!(best >= 0.9, "the best second carried {best} of what fits");
    let average = total as f64 / start.elapsed().as_secs_f64() / fits;
    assert!(average <= 1.01, "{average} of what fits crossed the link");
    drop(far);
    writer.join().map_err(|_| "writer thread")?;
    Ok(())
}

#[test]
fn a_stream_stalls_while_the_link_is_down_and_goes_on_after() -> Outcome {
    let config = LinkConfig::default().rate(100_000_000).rtt(Duration::from_millis(4));
    let lab = Lab::emulated(config)?;
    let (mut near, mut far) = connect(&lab, lab.b().ipv4().into())?;
    let received = Arc::new(AtomicU64::new(0));
    let count = received.clone();
    let reader = std::thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = far.read(&mut piece) {
            count.fetch_add(length as u64, Ordering::Relaxed);
        }
    });
    let closer = near.try_clone()?;
    let writer = std::thread::spawn(move || while near.write_all(&[3; 64 * 1024]).is_ok() {});
    let now = || received.load(Ordering::Relaxed);
    wait_until("bytes flow", || now() > 1 << 20);
    lab.set_link_up(false);
    // What is queued or on the line still arrives.
    std::thread::sleep(Duration::from_millis(500));
    let stalled = now();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(now(), stalled, "nothing crosses a link that is down");
    lab.set_link_up(true);
    wait_until("bytes flow again", || now() > stalled + (1 << 20));
    closer.shutdown(std::net::Shutdown::Both)?;
    writer.join().map_err(|_| "writer thread")?;
    reader.join().map_err(|_| "reader thread")?;
    Ok(())
}

#[test]
fn changed_bits_arrive_unnoticed_by_tcp() -> Outcome {
    const BYTES: usize = 8 << 20;
    let lab = Lab::emulated(LinkConfig::default())?;
    let (mut near, mut far) = connect(&lab, lab.b().ipv4().into())?;
    lab.set_damage(0.01);
    let writer = std::thread::spawn(move || near.write_all(&vec![0; BYTES]));
    let mut received = vec![0; BYTES];
    far.read_exact(&mut received)?;
    writer.join().map_err(|_| "writer thread")??;
    let changed: u64 = received.iter().map(|byte| u64::from(byte.count_ones())).sum();
    assert!(changed > 0, "nothing was changed");
    assert_eq!(changed, lab.stats(Direction::AToB).damaged, "each change arrives, and once");
    assert_eq!(lab.stats(Direction::BToA).damaged, 0, "acknowledgements carry nothing");
    lab.set_damage(0.0);
    let before = lab.stats(Direction::AToB).damaged;
    let (mut near, mut far) = connect(&lab, lab.b().ipv6().into())?;
    near.write_all(&[0; 4096])?;
    far.read_exact(&mut [0; 4096])?;
    assert_eq!(lab.stats(Direction::AToB).damaged, before);
    Ok(())
}

#[test]
fn as_many_connections_are_reset_as_were_asked_for() -> Outcome {
    let lab = Lab::emulated(LinkConfig::default().rate(50_000_000))?;
    for address in [IpAddr::from(lab.b().ipv4()), lab.b().ipv6().into()] {
        let before = lab.stats(Direction::AToB).resets;
        let ended = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for _ in 0..4 {
            let (mut near, mut far) = connect(&lab, address)?;
            let ended = ended.clone();
            threads.push(std::thread::spawn(move || while near.write_all(&[1; 8192]).is_ok() {}));
            threads.push(std::thread::spawn(move || {
                let mut piece = vec![0; 64 * 1024];
                while let Ok(1..) = far.read(&mut piece) {}
                ended.fetch_add(1, Ordering::SeqCst);
            }));
        }
        for asked in [1, 3] {
            let so_far = ended.load(Ordering::SeqCst);
            lab.reset_connections(Direction::AToB, asked);
            wait_until("they end", || ended.load(Ordering::SeqCst) == so_far + asked);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(ended.load(Ordering::SeqCst), so_far + asked, "and no others");
        }
        threads.into_iter().try_for_each(std::thread::JoinHandle::join).map_err(|_| "a thread")?;
        assert_eq!(lab.stats(Direction::AToB).resets - before, 4);
    }
    Ok(())
}

#[test]
fn a_veth_laboratory_connects_too() -> Outcome {
    let lab = Lab::veth()?;
    for address in [IpAddr::from(lab.b().ipv4()), lab.b().ipv6().into()] {
        let (mut near, mut far) = connect(&lab, address)?;
        near.write_all(b"through")?;
        let mut bytes = [0; 7];
        far.read_exact(&mut bytes)?;
        assert_eq!(&bytes, b"through");
    }
    Ok(())
}

#[test]
fn namespaces_and_processes_are_gone_after_drop() -> Outcome {
    let lab = Lab::emulated(LinkConfig::default())?;
    let names = [lab.a(), lab.b()].map(|host| host.name().to_owned());
    let mut guarded = lab.a().spawn(lab.a().command("sleep").arg("600"))?;
    assert!(guarded.child().try_wait()?.is_none());
    let mut left = lab.b().command("sleep").arg("600").spawn()?;
    assert!(names.iter().all(|name| exists(name)));
    let pid = guarded.pid();
    drop(guarded);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    drop(lab);
    assert!(!names.iter().any(|name| exists(name)), "{names:?}");
    assert!(!left.wait()?.success(), "a process left on a host ends with it");
    Ok(())
}

#[test]
fn namespaces_are_gone_after_a_panic() -> Outcome {
    let (tell, told) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let lab = Lab::emulated(LinkConfig::default()).expect("laboratory");
        let _ = tell.send(lab.a().name().to_owned());
        lab.b().enter(|| panic!("on purpose"));
    });
    let name = told.recv()?;
    assert!(panicked.join().is_err());
    assert!(!exists(&name));
    Ok(())
}

#[test]
fn what_a_dead_owner_left_is_swept() -> Outcome {
    let mut owner = std::process::Command::new("true").spawn()?;
    owner.wait()?;
    let name = format!("dwcplab-{}-0-a", owner.id());
    let added = std::process::Command::new("ip").args(["netns", "add", &name]).status()?;
    assert!(added.success() && exists(&name));
    let lab = Lab::veth()?;
    assert!(!exists(&name));
    assert!(exists(lab.a().name()));
    Ok(())
}

/// A stream from host A to host B, at `address`: both ends.
fn connect(lab: &Lab, address: IpAddr) -> std::io::Result<(TcpStream, TcpStream)> {
    let listen = |host: &Host| host.enter(|| TcpListener::bind((address, 0)));
    let listener = listen(lab.b())?;
    let to = listener.local_addr()?;
    let near = lab.a().enter(|| TcpStream::connect_timeout(&to, LONG))?;
    let (far, _) = listener.accept()?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LONG))?;
    }
    Ok((near, far))
}

/// Reads for a time; how many bytes came.
fn read_for(stream: &mut TcpStream, piece: &mut [u8], time: Duration) -> std::io::Result<usize> {
    let (start, mut bytes) = (Instant::now(), 0);
    while start.elapsed() < time {
        bytes += stream.read(piece)?;
    }
    Ok(bytes)
}

fn noise(random: &mut SplitMix) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    bytes
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn exists(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

/// How long anything may take before the test gives up.
const LONG: Duration = Duration::from_secs(60);
