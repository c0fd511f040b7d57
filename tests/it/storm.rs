//! Blocks that would cut off too many of those who are connected, by who is no operator: with real connections.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use limiter_tests::lab::{HOST, OUTSIDE};
use limiter_tests::{Lab, in_lab};
use limiter_user::client::{Client, ClientError, ProblemKind, Report};

use crate::client::{remote, run, started};

const PEERS: u8 = 40;
const SOON: Duration = Duration::from_secs(10);

fn peer(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

/// Connections of that many hosts behind the link with the protected host.
fn connected(lab: &Lab) -> Result<Vec<TcpStream>> {
    lab.host.ip(&format!("route add 198.51.100.0/24 via {}", OUTSIDE.v4))?;
    for last in 1..=PEERS {
        lab.outside.ip(&format!("address add {}/32 dev lo", peer(last)))?;
    }
    let server = SocketAddr::from((HOST.v4, 7_700));
    let listener = lab.host.enter(|| Ok(TcpListener::bind(server)?))?;
    let mut both = Vec::new();
    for last in 1..=PEERS {
        lab.outside.ip(&format!("route replace {} dev {} src {}", HOST.v4, OUTSIDE.interface, peer(last)))?;
        both.push(lab.outside.enter(|| Ok(TcpStream::connect_timeout(&server, SOON)?))?);
        both.push(listener.accept()?.0);
    }
    Ok(both)
}

/// What the refusal of a block says.
async fn refused(client: &Client, prefixes: &[String]) -> Result<String> {
    let refs: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    match client.block(&refs, None, "storm").await {
        Err(ClientError::Refused(problem)) if problem.kind == ProblemKind::Guarded => {
            // Those who are too many at any time need not come back.
            let status = if problem.detail.contains("cut off 40 of") { 409 } else { 429 };
            ensure!(problem.status == status, "{problem:?}");
            Ok(problem.detail)
        }
        other => bail!("{prefixes:?} is not refused: {other:?}"),
    }
}

#[test]
fn applications_cut_off_a_share_of_the_connected_and_no_more() {
    in_lab("storm", |lab| {
        let daemon = started(lab)?;
        let connections = connected(lab)?;
        let shop = Client::remote(remote(lab, &daemon, &["report", "block:prefix/8"])?);
        let daemon = &daemon;
        run(lab, async move {
            let said = refused(&shop, &["198.0.0.0/8".to_owned()]).await?;
            ensure!(said.contains("would cut off 40 of the 40 hosts that were connected of late"), "{said}");
            let half = ["198.51.100.0/28", "198.51.100.16/30"];
            ensure!(shop.block(&half, None, "storm").await?.added == 2, "19 of 40 are not too many");
            let said = refused(&shop, &["198.51.100.20/31".to_owned()]).await?;
            ensure!(said.contains("cut off 2 of the 40 hosts") && said.contains("after 19 in"), "{said}");
            // Who is not connected may be blocked as before, and so may single hosts.
            shop.block(&["203.0.113.0/24", "198.51.100.200", "198.51.100.30"], None, "storm").await?;
            let report = Report::new(IpAddr::from(peer(22)), "login_failed");
            let said = shop.report(&vec![report; 5]).await?;
            ensure!(said.blocks == 1 && said.refused == 0, "{said:?}");
            // An operator is asked, and answers; or configures it otherwise.
            daemon.cli.ok("block add 198.51.100.21 198.0.0.0/8 --for 1m")?;
            daemon.cli.ok("block remove 198.51.100.21 198.0.0.0/8")?;
            let text = fs::read_to_string(&daemon.places.config)?;
            fs::write(&daemon.places.config, text.replace("[guards]\n", "[guards]\npeers_share = 80\n"))?;
            daemon.cli.ok("reload")?;
            let said = refused(&shop, &["198.51.100.0/26".to_owned()]).await?;
            ensure!(said.contains("80 %"), "{said}");
            shop.block(&["198.51.100.24/29"], None, "storm").await?;
            Ok(())
        })?;
        let status = daemon.cli.json("status")?;
        let warnings = status["warnings"].to_string();
        ensure!(
            warnings.contains("3 blocks of applications were refused within the last hour"),
            "{warnings}"
        );
        ensure!(status["blocks"] == 7, "{status}");
        let trail = fs::read_to_string(daemon.places.state.join("audit/audit.jsonl"))?;
        let refusals = trail.lines().filter(|line| line.contains("the brake on ban storms holds"));
        ensure!(refusals.count() >= 3, "the refusals are not on record: {trail}");
        drop(connections);
        Ok(())
    });
}
