//! What applications report.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::body::{self, Pieces};
use super::decisions::Decision;
use super::gate::Caller;
use super::idempotency::{Bulk, no_key};
use super::refusal::Refusal;
use super::routes::Shared;
use crate::config::Action;
use crate::control::protocol::{ProblemKind, Report, ReportResponse};
use crate::excerpt;

/// Reports of a stream that are counted together.
const CHUNK: usize = 1000;
/// The longest line of a stream.
const MAX_LINE: usize = 8 << 10;
/// Blocks and refusals that an answer names.
const TOLD: usize = 100;

/// One report, an array of them, or a stream of lines.
pub(super) async fn report(
    State(shared): State<Shared>,
    caller: Caller,
    request: Request,
) -> Result<Response, Refusal> {
    if is_stream(request.headers()) {
        let (parts, body) = request.into_parts();
        no_key(&parts.headers, "lines are counted as they come; send an array, or leave the key out")?;
        return Ok(Json(stream(&shared, &caller, &parts.headers, body).await?).into_response());
    }
    let Bulk { once, bytes, .. } = Bulk::from_request(request, &shared).await?;
    shared.once.clone().answer(once, all(&shared, &caller, &bytes)).await
}

fn is_stream(headers: &HeaderMap) -> bool {
    let stated = headers.get(header::CONTENT_TYPE).and_then(|stated| stated.to_str().ok());
    let media = stated.and_then(|stated| stated.split(';').next()).unwrap_or_default().trim();
    ["application/x-ndjson", "application/jsonl"].iter().any(|lines| media.eq_ignore_ascii_case(lines))
}

async fn all(shared: &Shared, caller: &Caller, bytes: &[u8]) -> Result<ReportResponse, Refusal> {
    let alone = bytes.trim_ascii_start().first() != Some(&b'[');
    let reports: Vec<Report> = if alone { vec![body::parse(bytes)?] } else { body::parse(bytes)? };
    if reports.len() > caller.bounds.prefixes {
        let detail = format!(
            "{} reports are too many for a request; send at most {} at a time, or a stream of lines",
            reports.len(),
            caller.bounds.prefixes
        );
        return Err(Refusal::new(ProblemKind::Invalid, 413, detail));
    }
    let response = counted(shared, caller, reports).await?;
    // Who reports one address wants to hear at once that it was a proxy's.
    if alone && response.counted == 0 && response.refused > 0 {
        let mut refusal = Refusal::new(ProblemKind::Guarded, 409, "the report was refused by a guard");
        refusal.problem.items = response.items;
        return Err(refusal.recorded());
    }
    Ok(response)
}

/// Takes lines as they come. What was counted stays so when a later line is not understood.
async fn stream(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<ReportResponse, Refusal> {
    let mut pieces = Pieces::new(headers, body, &caller.bounds, caller.bounds.list)?;
    let mut response = ReportResponse::default();
    let (mut rest, mut reports, mut number) = (Vec::new(), Vec::new(), 0_u64);
    loop {
        let piece = pieces.next().await?;
        rest.extend_from_slice(piece.as_deref().unwrap_or(b"\n"));
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let later = rest.split_off(whole);
        for line in std::mem::replace(&mut rest, later).split(|byte| *byte == b'\n') {
            number += 1;
            if line.trim_ascii().is_empty() {
                // The end of a piece is no line.
                number -= u64::from(line.is_empty());
                continue;
            }
            reports.push(body::parse(line).map_err(|refusal| at(refusal, number, &response))?);
            if reports.len() == CHUNK {
                let chunk = std::mem::take(&mut reports);
                let more = counted(shared, caller, chunk).await;
                let more = more.map_err(|refusal| at(refusal, number, &response))?;
                add(&mut response, more);
            }
        }
        if rest.len() > MAX_LINE {
            return Err(at(Refusal::invalid("the line is too long"), number + 1, &response));
        }
        if piece.is_none() {
            break;
        }
    }
    let more = counted(shared, caller, reports).await;
    let more = more.map_err(|refusal| at(refusal, number, &response))?;
    add(&mut response, more);
    Ok(response)
}

/// Says where a stream broke off, and what came of it until then.
fn at(mut refusal: Refusal, line: u64, before: &ReportResponse) -> Refusal {
    let detail = &mut refusal.problem.detail;
    *detail = format!("line {line}: {detail}; {} reports before it were counted", before.counted);
    refusal
}

fn add(sum: &mut ReportResponse, more: ReportResponse) {
    let ReportResponse { counted, unknown, refused, blocks, blocked, items } = more;
    sum.counted += counted;
    sum.unknown += unknown;
    sum.refused += refused;
    sum.blocks += blocks;
    sum.blocked.extend(blocked.into_iter().take(TOLD.saturating_sub(sum.blocked.len())));
    sum.items.extend(items.into_iter().take(TOLD.saturating_sub(sum.items.len())));
}

/// Has reports counted, as far as the caller's quota goes: all or none.
async fn counted(shared: &Shared, caller: &Caller, reports: Vec<Report>) -> Result<ReportResponse, Refusal> {
    reports.iter().try_for_each(check)?;
    let backend = &shared.backend;
    let number = u32::try_from(reports.len()).unwrap_or(u32::MAX);
    backend.access.charge(&caller.principal, number, (backend.clock)())?;
    let most = caller.principal.caps.max_ttl.map(|ttl| ttl.as_secs());
    let outcome = backend.enforcer.report(reports, most, caller.claims_as()?).await;
    let (prefixes, reason) = match &outcome {
        Ok(response) => (
            response.blocked.iter().map(|blocked| blocked.prefix.clone()).collect(),
            response.blocked.first().map(|blocked| blocked.reason.clone()),
        ),
        Err(_) => (Vec::new(), None),
    };
    let decision = Decision {
        action: Action::Block,
        change: "report",
        prefixes: &prefixes,
        seconds: None,
        reason: reason.as_deref(),
        force: false,
        caller,
    };
    match outcome {
        Ok(response) => {
            if response.blocks > 0 {
                decision
                    .done(shared, response.blocks, None, format!("of {} reports", response.counted))
                    .await;
            }
            if let Some(first) = response.items.first() {
                let why = format!("{} refused, the first: {first}", response.refused);
                decision.refused(shared, &why).await;
            }
            Ok(response)
        }
        Err(error) => Err(decision.recorded(shared, error.into()).await),
    }
}

/// Whether the texts of a report are of a reasonable length.
fn check(report: &Report) -> Result<(), Refusal> {
    let texts = [Some(&report.category), report.account.as_ref(), report.device.as_ref()];
    match texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > excerpt::LONGEST) {
        true => Err(Refusal::invalid(format!(
            "category, account and device have 1 to {} bytes; nothing of this was counted",
            excerpt::LONGEST
        ))),
        false => Ok(()),
    }
}
