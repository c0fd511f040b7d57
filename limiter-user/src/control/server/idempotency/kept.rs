//! The answers that are kept, of at most so many bytes of each caller and in all: who asks for much pushes out their own, and
//! then those of whoever has more. Pure: the time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::time::Instant;

/// How long they are kept.
pub(super) const AGE: Duration = Duration::from_secs(24 * 3600);
/// Bytes of all of them.
pub(super) const MOST: usize = 16 << 20;
/// Bytes of those of one caller: some 20,000 short ones.
pub(super) const EACH: usize = 8 << 20;
/// What each of them takes beside its own bytes: its place in the tables, with what these have in reserve.
pub(super) const PLACE: usize = 320;

/// A hash of what may be long, or a secret.
pub(super) type Digest = [u8; 32];

/// A request that may be sent once more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Once {
    pub(super) caller: Digest,
    /// Of the caller and the key that they have given it.
    pub(super) key: Digest,
    /// Of what is asked for.
    pub(super) asked: Digest,
}

/// What is known of a request when it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing; it is under way from now on.
    No,
    UnderWay,
    /// Its key belongs to another request.
    Other,
    Answered(Bytes),
}

/// All answers. Those under way are bounded by what may be under way, and never pushed out.
#[derive(Debug, Default)]
pub(super) struct Kept {
    requests: HashMap<Digest, Request>,
    /// Those who have answers.
    callers: HashMap<Digest, Caller>,
    bytes: usize,
}

#[derive(Debug)]
struct Request {
    asked: Digest,
    /// `None` while it is under way.
    answer: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Caller {
    /// The keys of their answers, the oldest first, and since when each is kept.
    answers: VecDeque<(Digest, Instant)>,
    bytes: usize,
}

fn size(answer: &Bytes) -> usize {
    answer.len() + PLACE
}

impl Kept {
    pub(super) fn begin(&mut self, once: &Once, now: Instant) -> Known {
        self.forget(&once.caller, |caller| {
            let oldest = caller.answers.front();
            oldest.is_some_and(|(_, since)| now.saturating_duration_since(*since) >= AGE)
        });
        match self.requests.get(&once.key) {
            Some(request) if request.asked != once.asked => Known::Other,
            Some(Request { answer: Some(answer), .. }) => Known::Answered(answer.clone()),
            Some(Request { answer: None, .. }) => Known::UnderWay,
            None => {
                self.requests.insert(once.key, Request { asked: once.asked, answer: None });
                Known::No
            }
        }
    }

    /// What was under way has ended. Without an answer it is forgotten, so that it can be tried again.
    pub(super) fn end(&mut self, once: &Once, answer: Option<Bytes>, now: Instant) {
        let Some(answer) = answer.filter(|answer| size(answer) <= EACH) else {
            self.requests.remove(&once.key);
            return;
        };
        let size = size(&answer);
        self.requests.insert(once.key, Request { asked: once.asked, answer: Some(answer) });
        let caller = self.callers.entry(once.caller).or_default();
        caller.answers.push_back((once.key, now));
        caller.bytes += size;
        self.bytes += size;
        self.forget(&once.caller, |caller| caller.bytes > EACH);
        while self.bytes > MOST {
            let greediest = self.callers.iter().max_by_key(|(_, caller)| caller.bytes);
            let Some(greediest) = greediest.map(|(greediest, _)| *greediest) else { return };
            let mut first = true;
            self.forget(&greediest, |_| std::mem::take(&mut first));
        }
    }

    /// Forgets the oldest answers of a caller while `too_many`.
    fn forget(&mut self, who: &Digest, mut too_many: impl FnMut(&Caller) -> bool) {
        let Some(caller) = self.callers.get_mut(who) else { return };
        while too_many(caller) {
            let Some((key, _)) = caller.answers.pop_front() else { break };
            let answer = self.requests.remove(&key).and_then(|request| request.answer);
            let size = answer.as_ref().map_or(0, size);
            caller.bytes -= size;
            self.bytes -= size;
        }
        if caller.answers.is_empty() {
            self.callers.remove(who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sha256::of_parts;

    fn once(caller: u32, key: u32) -> Once {
        let caller = of_parts(&[&caller.to_le_bytes()]);
        Once { caller, key: of_parts(&[&caller, &key.to_le_bytes()]), asked: [0; 32] }
    }

    fn keep(kept: &mut Kept, once: &Once, length: usize, now: Instant) {
        assert_eq!(kept.begin(once, now), Known::No);
        kept.end(once, Some(vec![b'x'; length].into()), now);
    }

    fn is_known(kept: &mut Kept, once: &Once, now: Instant) -> bool {
        let known = kept.begin(once, now);
        if known == Known::No {
            kept.end(once, None, now);
        }
        matches!(known, Known::Answered(_))
    }

    /// The sums are those of what is there, whatever happened.
    fn check(kept: &Kept) {
        let answers = || kept.requests.values().filter_map(|request| request.answer.as_ref());
        assert_eq!(kept.bytes, answers().map(size).sum::<usize>());
        assert_eq!(kept.bytes, kept.callers.values().map(|caller| caller.bytes).sum::<usize>());
        assert_eq!(
            answers().count(),
            kept.callers.values().map(|caller| caller.answers.len()).sum::<usize>()
        );
        assert!(kept.callers.values().all(|caller| caller.bytes <= EACH && !caller.answers.is_empty()));
        assert!(kept.bytes <= MOST, "{}", kept.bytes);
    }

    #[test]
    fn nobody_pushes_out_the_answers_of_another() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        let theirs: Vec<Once> = (0..100).map(|key| once(0, key)).collect();
        theirs.iter().for_each(|once| keep(&mut kept, once, 100, now));
        // One who asks for very much, and then many who do.
        for caller in 1..20 {
            for key in 0..10_000 {
                keep(&mut kept, &once(caller, key), 1000, now);
            }
            check(&kept);
            assert!(is_known(&mut kept, &once(caller, 9_999), now), "the last one is there");
            assert!(!is_known(&mut kept, &once(caller, 0), now), "the first one has made room");
        }
        assert!(theirs.iter().all(|once| is_known(&mut kept, once, now)));
        let held = kept.callers.len();
        assert_eq!(held, 20, "each has some");
    }

    #[test]
    fn the_sums_hold_in_any_order() {
        let mut kept = Kept::default();
        let (mut now, mut state) = (Instant::now(), 7_u64);
        let mut under_way = Vec::new();
        for step in 0..60_000_u32 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = u32::try_from(state >> 33).unwrap();
            let asked = once(random % 5, random / 5 % 400);
            match random >> 20 & 7 {
                0..5 if kept.begin(&asked, now) == Known::No => under_way.push(asked),
                5..7 if !under_way.is_empty() => {
                    let ended = under_way.swap_remove(random as usize % under_way.len());
                    let answer = (random & 1 == 0).then(|| vec![0; random as usize % 100_000].into());
                    kept.end(&ended, answer, now);
                }
                _ => now += AGE / 5_000,
            }
            if step % 64 == 0 {
                check(&kept);
            }
        }
        assert!(kept.bytes > MOST / 2, "nothing was pushed out: {}", kept.bytes);
        under_way.iter().for_each(|once| kept.end(once, None, now));
        check(&kept);
        assert!(kept.requests.values().all(|request| request.answer.is_some()));
    }

    #[test]
    fn a_day_is_enough() {
        let (mut kept, now) = (Kept::default(), Instant::now());
        keep(&mut kept, &once(0, 0), 10, now);
        assert!(is_known(&mut kept, &once(0, 0), now + AGE - Duration::from_secs(1)));
        assert!(!is_known(&mut kept, &once(0, 0), now + AGE));
        check(&kept);
        assert_eq!((kept.bytes, kept.callers.len()), (0, 0));
        // One that would take the place of all others is not kept.
        keep(&mut kept, &once(0, 1), EACH, now);
        assert!(!is_known(&mut kept, &once(0, 1), now));
    }
}
