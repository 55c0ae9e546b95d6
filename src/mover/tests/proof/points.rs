//! Fail points: a fault of each kind at each step of each scene. A part of them in each run, another one
//! each day; `OCTROI_POINTS` chooses: `all`, or a number for that part.

use std::time::Duration;

use super::*;

const FAULTS: [Fault; 6] = [
    Fault::Kill,
    Fault::Errno(Errno::IO),
    Fault::Errno(Errno::NOSPC),
    Fault::Errno(Errno::INTR),
    Fault::Short,
    Fault::Delay(Duration::from_millis(2)),
];

/// One case in so many is tried by default.
const PARTS: u64 = 12;

/// Whether the n-th case is tried.
fn chosen(case: u64) -> bool {
    match std::env::var("OCTROI_POINTS").as_deref() {
        Ok("all") => true,
        Ok(part) => case % PARTS == part.parse::<u64>().unwrap() % PARTS,
        Err(_) => {
            let day = jiff::Timestamp::now().as_second() as u64 / 86_400;
            case % PARTS == day % PARTS
        }
    }
}

/// What was open stays open until the next start: the outcome does not tell.
fn is_unsettled(error: &CrossingError) -> bool {
    use CrossingError::*;
    matches!(error, InDoubt { .. } | LeftOpen { .. })
}

fn one(ground: &Ground, step: u64, fault: Fault) -> bool {
    let Some((play, outcome)) = Play::run(ground, step, fault) else { return false };
    let Ground { scene, names, views, .. } = ground;
    let context = format!("{scene:?} {names:?} {fault:?} at step {step}: {outcome:?}");
    let done = outcome.done.len();
    if fault == Fault::Kill {
        play.recover_and_check(play.world.disk.after_kill(), &outcome.done, &context);
        return true;
    }
    let now = view_of(&play.world);
    match &outcome.failed {
        None => assert!(now == views[views.len() - 1], "{context}: acknowledged, and not so"),
        Some(error) if is_unsettled(error) => {}
        Some(_) => {
            let back = *scene == Scene::Letter && now == views[1];
            assert!(back || now == views[done], "{context}: refused, and users see\n{now:#?}");
        }
    }
    // Then the power goes, or the program stops: what was acknowledged and not confirmed is so all the same.
    // DONE may say so though its sync had failed, and what was synced is all that power loss leaves.
    play.recover_and_check(play.world.disk.crash(step), &[], &context);
    play.recover_and_check(play.world.disk.after_kill(), &outcome.done, &context);
    true
}

/// Another file crosses at the same time, so that its steps come where the delayed one should.
fn delayed(ground: &Ground, step: u64, fault: Fault) -> bool {
    let Ground { scene, names, .. } = *ground;
    let play = Play::begin(ground);
    play.world.put(0, "other", b"other");
    let first = play.world.disk.steps();
    let other = play.world.request("other", "sub/other");
    play.world.disk.fail_at(first + step, fault);
    let mover = Arc::clone(&play.world.mover);
    let (outcome, crossed) = std::thread::scope(|scope| {
        let other =
            scope.spawn(move || mover.prepare(other).and_then(|prepared| mover.commit(prepared)));
        (play.act(), other.join().unwrap())
    });
    let context = format!("{scene:?} {names:?} {fault:?} at step {step}: {outcome:?}");
    assert!(outcome.failed.is_none(), "{context}");
    let crossed = crossed.unwrap_or_else(|error| panic!("{context}: the other: {error}"));
    let hit = play.world.disk.steps() > first + step;
    let world = start(play.world.disk.after_kill().shared(), scene.same()).unwrap();
    assert!(world.mover.recover().dead.is_empty(), "{context}");
    assert_eq!(world.state(crossed.txid), Some(TransactionState::Done), "{context}");
    assert_eq!(world.get(1, "sub/other").as_deref(), Some(&b"other"[..]), "{context}");
    for txid in &outcome.done {
        assert_eq!(world.state(*txid), Some(TransactionState::Done), "{context}");
    }
    hit
}

#[test]
fn a_fault_at_each_step_is_survived() {
    let (mut case, mut tried) = (0, 0);
    for scene in SCENES {
        let ground = Ground::new(scene, Names::Independent, 0);
        for fault in FAULTS {
            for step in 0.. {
                case += 1;
                let is_last = || Play::run(&ground, step, Fault::Crash).is_none();
                if !chosen(case) {
                    // Whether there is such a step is asked for now and then only.
                    if step % 16 == 15 && is_last() {
                        break;
                    }
                    continue;
                }
                let reached = match fault {
                    Fault::Delay(_) => delayed(&ground, step, fault),
                    _ => one(&ground, step, fault),
                };
                if !reached {
                    assert!(step > 4, "{scene:?} took {step} steps only");
                    break;
                }
                tried += 1;
            }
        }
    }
    eprintln!("{tried} fail points tried");
    assert!(tried > 100, "{tried} tried");
}

/// Somebody outside opens the source at a step, by the name that it still has, and has not written yet: the
/// lease alone tells. Then it stays there.
#[test]
fn a_writer_who_opens_the_source_at_any_step_keeps_it() {
    let mut kept = 0;
    for step in 0.. {
        let world = new_world(Names::Journal, false);
        world.put(0, "f", &new_content());
        let request = world.request("f", "sub/g");
        let first = world.disk.steps();
        world.disk.fail_at(first + step, Fault::Delay(Duration::from_millis(10)));
        let (disk, root) = (Arc::clone(&world.disk), world.roots[0].clone());
        let ended = std::sync::atomic::AtomicBool::new(false);
        let (opened, outcome) = std::thread::scope(|scope| {
            let opens = scope.spawn(|| {
                while disk.steps() <= first + step {
                    if ended.load(std::sync::atomic::Ordering::SeqCst) {
                        return false;
                    }
                    std::thread::yield_now();
                }
                disk.open_outside(&root, OsStr::new("f")).is_ok()
            });
            let outcome = world.cross_as(request);
            ended.store(true, std::sync::atomic::Ordering::SeqCst);
            (opens.join().unwrap(), outcome)
        });
        if opened {
            kept += 1;
            assert!(outcome.is_err(), "step {step}: it was taken from a writer");
            assert_eq!(world.get(0, "f"), Some(new_content()), "step {step}: {outcome:?}");
        }
        if world.disk.steps() <= first + step || kept > 0 && outcome.is_ok() {
            break;
        }
    }
    assert!(kept > 10, "{kept} writers came in time");
}
