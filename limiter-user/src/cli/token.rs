//! `token`: create, list, revoke, rotate. A secret goes to standard output alone, so that it can go to a file without being
//! seen; it is never an argument, which others on the machine could read.

use std::io::{self, Write};

use crate::cli::Session;
use crate::cli::args::{CreateToken, Token};
use crate::cli::failure::{Exit, Stop};
use crate::cli::render;
use crate::control::protocol::{NewToken, RotateRequest, TokenRequest};

pub(super) async fn token(session: &mut Session<impl Write>, token: Token) -> Result<Exit, Stop> {
    match token {
        Token::Create(create) => {
            let made = session.client.create_token(&request(&create)).await?;
            show(session, &made)
        }
        Token::List => {
            let list = session.client.tokens().await?;
            if session.json {
                session.json(&list)?;
            } else {
                render::tokens(&mut session.out, session.palette, &list, jiff::Timestamp::now())?;
            }
            Ok(Exit::Ok)
        }
        Token::Revoke { ids } => {
            for id in &ids {
                let revoked = session.client.revoke_token(id).await?;
                if session.json {
                    session.json(&revoked)?;
                } else {
                    writeln!(session.out, "revoked {} ({})", revoked.id, render::printable(&revoked.name))?;
                }
            }
            Ok(Exit::Ok)
        }
        Token::Rotate { id, overlap } => {
            let overlap_seconds = overlap.map_or(0, |overlap| overlap.seconds().unwrap_or(u64::MAX));
            let made = session.client.rotate_token(&id, &RotateRequest { overlap_seconds }).await?;
            show(session, &made)
        }
    }
}

fn request(create: &CreateToken) -> TokenRequest {
    TokenRequest {
        name: create.name.clone(),
        scopes: create.scopes.iter().map(ToString::to_string).collect(),
        max_seconds: create.max_ttl.and_then(|longest| longest.seconds()),
        max_prefix: create.max_prefix,
        per_minute: create.quota.map(|quota| quota.number()),
        from: create.from.iter().map(ToString::to_string).collect(),
        expires_in: create.expires.seconds(),
    }
}

fn show(session: &mut Session<impl Write>, made: &NewToken) -> Result<Exit, Stop> {
    if session.json {
        session.json(made)?;
        return Ok(Exit::Ok);
    }
    writeln!(session.out, "{}", made.token)?;
    // What was printed must not be lost if what follows cannot be said.
    session.out.flush()?;
    render::new_token(&mut io::stderr(), &made.known)?;
    Ok(Exit::Ok)
}
