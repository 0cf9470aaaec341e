//! Parsers against what nobody meant to send: mutations of good inputs, many and fast.
//!
//! The ordinary tests take a fixed seed and so many rounds; `make fuzz` lets each go on for `MINIK8S_FUZZ_SECONDS` with a
//! seed of its own. Inputs that the target accepts are mutated further, so that later ones get deeper. What makes the
//! target panic is shown, with the seed (`MINIK8S_FUZZ_SEED`) that brings it back. What ends the whole process, as an
//! overflow of the stack does, is in a file whose name was told at the start.

#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "tests only")]

use fastrand::Rng;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

/// The fixed seed of ordinary tests.
const SEED: u64 = 8872;
/// Accepted inputs kept for further mutation, beside the given ones; later ones take the place of random others.
const KEPT: usize = 500;
/// Mutations may make an input longer, but not for ever.
const LONGEST: usize = 16 << 10;
const MUTATIONS: usize = 6;
/// What parsers treat specially.
const WORDS: &[&str] = &[
    "",
    "0",
    "-1",
    "9223372036854775808",
    "1e999",
    "-0.0",
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "/",
    "~1",
    "~0",
    "-",
    "..",
    "%2F",
    "%",
    "*",
    "$patch",
    "$deleteFromPrimitiveList/",
    "$setElementOrder/",
    "$retainKeys",
    "metadata",
    "name",
    "spec",
    "status",
    "\n",
    "\0",
    "&a ",
    "*a",
    "<<: ",
    ",",
    "=",
    "!=",
    " in (",
    ")",
    "\u{feff}",
    "é",
    "🦀",
];
const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'['];

/// Runs `target`, which says whether it accepted its input, on mutations of `corpus`: `rounds` times, or for as long as
/// `make fuzz` wants.
pub fn fuzz(rounds: u32, corpus: &[&[u8]], mut target: impl FnMut(&[u8]) -> bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = number("MINIK8S_FUZZ_SECONDS").map(Duration::from_secs);
    let seed = number("MINIK8S_FUZZ_SEED").unwrap_or(if time.is_some() { fastrand::u64(..) } else { SEED });
    let mut random = Rng::with_seed(seed);
    let given = corpus.len();
    let mut corpus: Vec<Vec<u8>> = corpus.iter().map(|input| input.to_vec()).collect();
    let last = time.map(|_| Last::new(seed));
    let (begun, mut round, mut accepted) = (Instant::now(), 0_u32, 0_u32);
    let mut slowest = (Duration::ZERO, Vec::new());
    while time.map_or(round < rounds, |time| begun.elapsed() < time) {
        // The good inputs themselves come first.
        let input = match corpus.get(round as usize) {
            Some(input) if (round as usize) < given => input.clone(),
            _ => mutated(&corpus, &mut random),
        };
        if let Some(last) = &last {
            last.keep(&input);
        }
        let started = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| target(&input))) {
            Ok(true) => {
                accepted += 1;
                if corpus.len() < given + KEPT {
                    corpus.push(input.clone());
                } else {
                    let place = random.usize(given..corpus.len());
                    corpus[place].clone_from(&input);
                }
            }
            Ok(false) => {}
            Err(panic) => {
                eprintln!("MINIK8S_FUZZ_SEED={seed}, round {round}: {}", input.escape_ascii());
                resume_unwind(panic);
            }
        }
        if started.elapsed() > slowest.0 {
            slowest = (started.elapsed(), input);
        }
        round += 1;
    }
    eprintln!("seed {seed}: {round} inputs, {accepted} accepted; the slowest took {:?}:", slowest.0);
    eprintln!("{}", slowest.1[..slowest.1.len().min(200)].escape_ascii());
}

/// The input at work, for who finds the process gone.
struct Last {
    file: File,
    path: PathBuf,
}

impl Last {
    fn new(seed: u64) -> Self {
        let path = std::env::temp_dir().join(format!("minik8s-fuzz-{seed}"));
        eprintln!("seed {seed}; the input at work is in {}", path.display());
        Self { file: File::create(&path).unwrap(), path }
    }

    fn keep(&self, input: &[u8]) {
        self.file.set_len(0).unwrap();
        self.file.write_all_at(input, 0).unwrap();
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        // A panic is shown with its input; only who is ended leaves the file.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn mutated(corpus: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input = corpus.get(random.usize(0..corpus.len().max(1))).cloned().unwrap_or_default();
    for _ in 0..random.usize(1..=MUTATIONS) {
        let at = random.usize(0..=input.len());
        let end = (at + random.usize(0..=16)).min(input.len());
        match random.u8(0..9) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(0..8),
            1 if at < input.len() => input[at] = BYTES[random.usize(0..BYTES.len())],
            2 if at < input.len() => input[at] = random.u8(..),
            3 => drop(input.drain(at..end)),
            4 => insert(&mut input, at, WORDS[random.usize(0..WORDS.len())].as_bytes()),
            5 => {
                // Twice the same, or much of it.
                let part = input[at..end].repeat(random.usize(1..=4).pow(3));
                insert(&mut input, at, &part);
            }
            6 | 7 => {
                // A piece of another.
                let other = &corpus[random.usize(0..corpus.len())];
                let from = random.usize(0..=other.len());
                let to = (from + random.usize(0..=64)).min(other.len());
                insert(&mut input, at, &other[from..to]);
            }
            _ => input.truncate(at.max(1)),
        }
    }
    input
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if input.len() + bytes.len() <= LONGEST {
        input.splice(at..at, bytes.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{duration, quantity::Quantity, selector::Selector};
    use std::collections::BTreeMap;

    fn text(bytes: &[u8]) -> Option<&str> {
        std::str::from_utf8(bytes).ok()
    }

    #[test]
    fn fuzz_finds_what_it_is_there_for() {
        let found = catch_unwind(|| {
            fuzz(100_000, &[b"{\"a\": 1}"], |input| {
                assert!(!input.windows(2).any(|pair| pair == b"{{"), "found");
                input.starts_with(b"{")
            });
        });
        assert!(found.is_err() || std::env::var_os("MINIK8S_FUZZ_SECONDS").is_some());
    }

    #[test]
    fn fuzz_selectors() {
        let corpus: [&[u8]; 6] =
            [b"a=b,c!=d", b"a in (b, c),!d", b"a notin (x)", b"example.com/a == b", b"a,!b", b"a>5, b < 7"];
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("b".to_owned(), "6".to_owned())]);
        fuzz(20_000, &corpus, |input| {
            let Some(selector) = text(input).and_then(|text| Selector::parse(text).ok()) else {
                return false;
            };
            let _ = selector.matches(&labels);
            // What it prints means the same.
            let printed = selector.to_string();
            assert_eq!(Selector::parse(&printed).as_ref(), Ok(&selector), "{printed:?}");
            true
        });
    }

    #[test]
    fn fuzz_quantities() {
        let corpus: [&[u8]; 9] =
            [b"1", b"100m", b"1.5Gi", b"-3k", b"1e3", b"0.1E", b"12E6", b"9223372036854775807", b"1n"];
        fuzz(50_000, &corpus, |input| {
            let Some(quantity) = text(input).and_then(|text| text.parse::<Quantity>().ok()) else {
                return false;
            };
            let printed = quantity.to_string();
            assert_eq!(printed.parse::<Quantity>().map(|q| q.to_string()).as_deref(), Ok(&*printed));
            let _ = (quantity.value(), quantity.milli_value());
            true
        });
    }

    #[test]
    fn fuzz_durations() {
        let corpus: [&[u8]; 4] = [b"40s", b"1m30s", b"1.5h", b"300ms"];
        fuzz(20_000, &corpus, |input| text(input).is_some_and(|text| duration::parse(text).is_ok()));
    }
}
