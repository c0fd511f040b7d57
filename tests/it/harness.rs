//! The harness itself, without a daemon: what the other tests rely on when they see nothing arrive.

use std::net::IpAddr;
use std::time::Duration;

use limiter_tests::lab::HOST;
use limiter_tests::tcp::{Client, Server};
use limiter_tests::traffic::{Flood, Sender, same};
use limiter_tests::{Lab, frames, in_lab, wait};

/// A hardware address of a sender that is to be told apart.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 0xbb];

/// Every framing that Linux delivers without further devices reaches the witness, so a witness at zero means that the
/// packets were dropped before.
#[test]
fn the_witness_sees_what_nobody_drops() {
    in_lab("witness", |lab| {
        lab.witness.block(&["198.51.100.0/24", "2001:db8::/32"])?;
        lab.witness.watch_sender("sender", HOST.interface, SENDER)?;
        let sender = Sender::open(lab)?;
        let mut sent = 0;
        for source in ["198.51.100.7", "2001:db8::7"] {
            for framing in frames::framings(source.parse()?) {
                for frame in framing.frames {
                    let before = lab.witness.blocked()?;
                    let frame = frames::sent_by(frame, SENDER);
                    sender.send(&[&frame])?;
                    sent += 1;
                    let seen = lab.witness.blocked()? - before;
                    assert_eq!(
                        seen,
                        u64::from(framing.delivered),
                        "{source}, {}: {frame:02x?}",
                        framing.name
                    );
                }
            }
        }
        assert_eq!(lab.witness.count("sender")?, sent, "frames of all kinds, parsed by nobody");
        println!("{sent} frames of all framings arrived");
        Ok(())
    });
}

#[test]
fn a_flood_keeps_its_pace_and_a_client_is_served() {
    in_lab("pace", |lab| {
        lab.witness.watch("flood", "ip saddr 198.51.100.7")?;
        let _server = Server::start(lab)?;
        let client = Client::over_v4(lab)?;
        let source: IpAddr = "198.51.100.7".parse()?;
        let frame = frames::udp(source, 60);
        let generators = vec![same(frame.clone()), same(frame)];
        let sent = Flood::run(lab, 5_000, generators, Duration::from_secs(1))?;
        let seen = lab.witness.count("flood")?;
        let served = client.stop();
        println!("offered {:.0}/s, {} sent, {seen} seen; {served}", sent.rate(), sent.frames);
        assert_eq!(seen, sent.frames);
        assert!((9_000.0..=10_100.0).contains(&sent.rate()), "asked for 10,000/s");
        assert!(served.requests > 50 && served.failed == 0, "{served:?}");
        Ok(())
    });
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let scratch = std::cell::RefCell::new(None);
    in_lab("traces", |lab: &Lab| {
        *scratch.borrow_mut() = Some(lab.scratch.path("bpf"));
        Ok(())
    });
    let path = scratch.into_inner().expect("set above");
    wait::until_true("the directory is gone", Duration::from_secs(5), || Ok(!path.exists())).expect("left");
    let mounts = std::fs::read_to_string("/proc/mounts").expect("procfs");
    assert!(!mounts.contains(&path.display().to_string()), "still mounted: {}", path.display());
}

#[test]
fn sockets_receive_datagrams_of_far_sources() {
    in_lab("far", |lab| {
        let socket = lab.host.enter(|| Ok(std::net::UdpSocket::bind(("::", 7000))?))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let sender = Sender::open(lab)?;
        for source in ["198.51.100.7", "2001:db8:bad::7"] {
            let source: IpAddr = source.parse()?;
            sender.send(&[frames::udp_with(source, 7000, source.to_string().as_bytes())])?;
            let mut text = [0; 64];
            let (len, from) = socket.recv_from(&mut text)?;
            assert_eq!(from.ip().to_canonical(), source);
            assert_eq!(text[..len], *source.to_string().as_bytes());
        }
        Ok(())
    });
}

#[test]
fn a_strangers_program_can_be_attached() {
    in_lab("stranger", |lab| {
        limiter_tests::stranger::attach(lab, HOST.interface)?;
        let link = lab.host.ip("-j -d link show eth0")?;
        assert!(link.contains("\"name\":\"stranger\""), "{link}");
        Ok(())
    });
}
