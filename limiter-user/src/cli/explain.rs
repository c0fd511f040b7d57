//! `explain`, and `block test`, which is the same question with a shorter answer.

use std::io::Write;

use limiter_common::{Address, Reason};

use crate::cli::Session;
use crate::cli::args::Explain;
use crate::cli::failure::{Exit, Stop};
use crate::cli::render;
use crate::config::Action;

pub(super) async fn explain(session: &mut Session<impl Write>, args: &Explain) -> Result<Exit, Stop> {
    let (protocol, port) = args.packet.map_or((None, None), |packet| (Some(packet.protocol), packet.port));
    let address = args.address.to_string();
    let explanation = session.client.explain(&address, protocol, port, args.interface.as_deref()).await?;
    if session.json {
        session.json(&explanation)?;
    } else {
        render::explanation(&mut session.out, session.palette, &explanation)?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn test(session: &mut Session<impl Write>, address: Address) -> Result<Exit, Stop> {
    let explanation = session.client.explain(&address.to_string(), None, None, None).await?;
    let blocked = explanation.reason == Reason::Blocked.label();
    if session.json {
        session.json(&explanation)?;
    } else if blocked {
        for claim in explanation.claims.iter().filter(|claim| claim.action == Action::Block) {
            write!(session.out, "{address} is ")?;
            render::claim_sentence(&mut session.out, session.palette, claim)?;
        }
    } else {
        writeln!(session.out, "{address} is not blocked")?;
        for claim in &explanation.claims {
            render::claim_sentence(&mut session.out, session.palette, claim)?;
        }
    }
    Ok(if blocked { Exit::Ok } else { Exit::NotFound })
}
