//! The engine against a naive evaluator that was written from the documented semantics alone: random
//! policies, each asked 1,000 random requests. 100,000 requests of fixed seeds by default;
//! `OCTROI_POLICY_REQUESTS=1000000` asks more. A part of the language is decisive in a request if the
//! answer is another one once it is taken out of the policy; each has to be in one of 1,000, though only
//! every other request is looked at for it, for it costs the most.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use plain::{Answer, Feature, Plain, Question};
use random::{Random, World};

mod glob;
mod hours;
pub mod plain;
mod random;

const EACH: usize = 1000;

/// What was seen of how many requests.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    requests: usize,
    denied: usize,
    /// Decisions, crossings and widenings: asked, and denied.
    kinds: [(usize, usize); 3],
    /// Directories that the engine does not let be renamed, though nothing was found that it would shed.
    cautious: usize,
    /// By [`Feature`].
    decisive: [usize; Feature::ALL.len()],
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.denied += other.denied;
        self.cautious += other.cautious;
        for (own, other) in self.kinds.iter_mut().zip(other.kinds) {
            *own = (own.0 + other.0, own.1 + other.1);
        }
        self.decisive.iter_mut().zip(other.decisive).for_each(|(own, other)| *own += other);
    }
}

type Classes = HashMap<ViewPath, PathClass>;

/// What the engine answers, by every way there is to ask it.
fn ask(
    policy: &Policy,
    classes: &Classes,
    who: &Subject,
    question: Question<'_>,
    facts: &Given,
) -> Answer {
    match question {
        Question::Decide(operation, object) => {
            let class = &classes[object.path];
            let decision = policy.decide_class(who, operation, (class, object.branch), facts);
            assert_eq!(decision.reason.is_some(), !decision.allowed, "{decision:?}");
            assert_eq!(policy.decide(who, operation, object, facts), decision, "classified anew");
            let (explained, _) = policy.explain(who, operation, object, None, facts);
            assert_eq!(explained, decision, "explained");
            let forbidden = policy.forbids(who, operation, object, facts);
            Answer::Decided {
                allowed: decision.allowed,
                basis: decision.basis,
                observed: decision.observed.map(|observed| observed.basis),
                forbidden: forbidden.map(|decision| decision.basis),
            }
        }
        Question::Cross(source, target) => {
            let (decision, gate) = policy.decide_crossing(who, source, target, facts);
            assert_eq!(decision.allowed, gate.is_some(), "{decision:?}");
            Answer::Crossed { basis: decision.basis, gate: gate.map(|gate| gate.name.clone()) }
        }
        Question::Widens(source, target) => {
            Answer::Widened(policy.widens(who, source, target).is_some())
        }
    }
}

fn classes<'a>(policy: &Policy, paths: impl Iterator<Item = &'a ViewPath>) -> Classes {
    paths.map(|path| (path.clone(), policy.classify_path(path))).collect()
}

/// Whether a policy that was made for this one request answers it wrong.
fn differs(source: &PolicySource, who: &Subject, question: Question<'_>, facts: &Given) -> bool {
    let policy = Policy::new(source.clone(), 1).expect("patterns that compile");
    let (Question::Decide(_, one) | Question::Cross(one, _) | Question::Widens(one, _)) = question;
    let classes = classes(&policy, [one.path].into_iter());
    let asked = || ask(&policy, &classes, who, question, facts);
    let wanted = Plain::new(source).answer(who, question, facts);
    catch_unwind(AssertUnwindSafe(asked))
        .map_or(true, |answer| answer != wanted && !is_cautious(source, question, &answer, &wanted))
}

/// Of what may lie below a directory, the naive evaluator tries a few names; the engine must know of all.
/// Only a rename within a domain is asked about.
fn is_cautious(
    source: &PolicySource,
    question: Question<'_>,
    answer: &Answer,
    wanted: &Answer,
) -> bool {
    let Question::Widens(from, to) = question else { return false };
    let cautious = matches!((answer, wanted), (Answer::Widened(true), Answer::Widened(false)));
    from.is_directory && (cautious || !source.one_domain(from.branch, to.branch))
}

/// The policy without the rules and gates that a difference does not need.
fn shrunk(
    source: &PolicySource,
    who: &Subject,
    question: Question<'_>,
    facts: &Given,
) -> PolicySource {
    let mut least = source.clone();
    for at in (0..source.rules.len()).rev() {
        let mut less = least.clone();
        less.rules.remove(at);
        if differs(&less, who, question, facts) {
            least = less;
        }
    }
    for at in (0..source.gates.len()).rev() {
        let mut less = least.clone();
        less.gates.remove(at);
        if differs(&less, who, question, facts) {
            least = less;
        }
    }
    least
}

fn compare(seed: u64) -> Counts {
    let random = &mut Random(seed);
    let source = random::policy(random);
    let world = World::new(random, &source);
    let policy = Policy::new(source.clone(), 1).expect("patterns that compile");
    let classes = classes(&policy, world.paths());
    let plain = Plain::new(&source);
    // None: the policy has no use for it.
    let without =
        Feature::ALL.map(|feature| Some(plain.without(feature)).filter(|less| *less != plain));
    let mut counts = Counts { requests: EACH, ..Counts::default() };
    for number in 0..EACH {
        let (who, question, facts) = world.request(random, &source);
        let wanted = plain.answer(who, question, &facts);
        let answer = ask(&policy, &classes, who, question, &facts);
        let cautious = is_cautious(&source, question, &answer, &wanted);
        counts.cautious += usize::from(cautious);
        if answer != wanted && !cautious {
            let least = shrunk(&source, who, question, &facts);
            panic!(
                "seed {seed}: {answer:?}\ninstead of {wanted:?}\n{who:?}\n{question:?}\n{facts:?}\n\
                 of {:#?}",
                Plain::new(&least)
            );
        }
        let kind = match question {
            Question::Decide(..) => 0,
            Question::Cross(..) => 1,
            Question::Widens(..) => 2,
        };
        counts.denied += usize::from(wanted.denied());
        counts.kinds[kind].0 += 1;
        counts.kinds[kind].1 += usize::from(wanted.denied());
        if number % 2 == 1 {
            continue;
        }
        for (decisive, other) in counts.decisive.iter_mut().zip(&without) {
            let differs = |other: &Plain| other.answer(who, question, &facts) != wanted;
            *decisive += usize::from(other.as_ref().is_some_and(differs));
        }
    }
    counts
}

#[test]
fn the_engine_agrees_with_a_naive_evaluator() {
    let requests = std::env::var("OCTROI_POLICY_REQUESTS");
    let requests: usize = requests.map_or(100_000, |text| text.parse().expect("a number"));
    let policies = requests.div_ceil(EACH) as u64;
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let share = |first: u64| {
        let mut counts = Counts::default();
        (first..policies).step_by(threads as usize).for_each(|seed| counts.add(&compare(seed)));
        counts
    };
    let mut counts = Counts::default();
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        for share in shares {
            counts.add(&share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    println!("{policies} policies, {} requests, {} denied", counts.requests, counts.denied);
    println!("decisions, crossings, widenings (asked, denied): {:?}", counts.kinds);
    for (feature, decisive) in Feature::ALL.iter().zip(counts.decisive) {
        println!("{feature:?} decisive in {decisive}");
    }
    println!("{} renames of directories were denied for what was not tried", counts.cautious);
    assert!(counts.cautious * 4 < counts.kinds[2].0, "{} of {:?}", counts.cautious, counts.kinds);
    let share = counts.denied * 100 / counts.requests;
    assert!((20..=80).contains(&share), "{share}% denied");
    for (feature, decisive) in Feature::ALL.iter().zip(counts.decisive) {
        assert!(decisive * 1000 >= counts.requests, "{feature:?} decides only {decisive}");
    }
}
