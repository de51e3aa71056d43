//! Instances that fail: left out for a while, tried again, and never all of them.

use super::*;

#[test]
fn who_fails_again_and_again_is_left_out_and_comes_back_on_trial() {
    let mut shell = shell(settings());
    let from = shell.native("c");
    let (good, bad) = (instance(&mut shell, provide(1, 99)), instance(&mut shell, provide(1, 99)));
    let mut number = 0;
    // Asks until the bad one has been given `count` requests, all of which it answers in this way.
    let mut feed = |shell: &mut Shell, count: u64, with: fn(&mut Shell, SessionId, u64)| {
        let mut fed = 0;
        for _ in 0..50 {
            number += 1;
            ask(shell, from, request(number));
            for call in given(shell, good) {
                done(shell, good, call);
            }
            for call in given(shell, bad) {
                fed += 1;
                with(shell, bad, call);
            }
            if fed == count {
                break;
            }
        }
        shell.read(from);
        fed
    };
    let state = |shell: &Shell| status(shell).instances[1].state;
    assert_eq!(feed(&mut shell, 4, fail), 4);
    assert_eq!((state(&shell), status(&shell).instances[1].failures), ("healthy", 4));
    assert_eq!(feed(&mut shell, 1, done), 1, "an answer in between");
    assert_eq!(status(&shell).instances[1].failures, 0);
    assert_eq!(feed(&mut shell, 5, fail), 5);
    assert_eq!((state(&shell), status(&shell).counts.ejections), ("ejected", 1));
    assert_eq!(feed(&mut shell, 1, done), 0, "it is given nothing");
    shell.pass(29_999);
    assert_eq!(state(&shell), "ejected");
    shell.pass(1);
    assert_eq!(state(&shell), "trial");
    // One request at a time, and a failure is enough to be left out for twice as long.
    for _ in 0..4 {
        number += 1;
        ask(&mut shell, from, request(number));
    }
    let probe = given(&mut shell, bad);
    assert_eq!(probe.len(), 1, "one probing request");
    fail(&mut shell, bad, probe[0]);
    for call in given(&mut shell, good) {
        done(&mut shell, good, call);
    }
    shell.read(from);
    assert_eq!((state(&shell), status(&shell).counts.ejections), ("ejected", 2));
    shell.pass(59_999);
    assert_eq!(state(&shell), "ejected");
    shell.pass(1);
    number += 2;
    ask(&mut shell, from, request(number - 1));
    ask(&mut shell, from, request(number));
    let probe = given(&mut shell, bad);
    done(&mut shell, bad, probe[0]);
    assert_eq!(state(&shell), "healthy", "it has its trust back");
    all_go(shell, &[from, good, bad]);
}

#[test]
fn the_time_that_an_instance_is_left_out_grows_up_to_its_most() {
    let mut shell =
        shell(ServiceSettings { eject_millis: 100, eject_millis_max: 250, eject_failures: 1, ..settings() });
    let from = shell.native("c");
    let (good, bad) = (instance(&mut shell, provide(1, 99)), instance(&mut shell, provide(1, 99)));
    for (number, millis) in (1..).step_by(2).zip([100, 200, 250, 250]) {
        ask(&mut shell, from, request(number));
        ask(&mut shell, from, request(number + 1));
        for call in given(&mut shell, good) {
            done(&mut shell, good, call);
        }
        let call = given(&mut shell, bad)[0];
        fail(&mut shell, bad, call);
        assert_eq!(status(&shell).instances[1].state, "ejected");
        shell.pass(millis - 1);
        assert_eq!(status(&shell).instances[1].state, "ejected");
        shell.pass(1);
        assert_eq!(status(&shell).instances[1].state, "trial");
    }
    all_go(shell, &[from, good, bad]);
}

#[test]
fn time_outs_count_as_failures_and_the_last_instance_is_never_left_out() {
    let mut shell = shell(ServiceSettings { eject_failures: 2, ..settings() });
    let from = shell.native("c");
    let to = instance(&mut shell, provide(1, 99));
    for number in 1..=9 {
        ask(&mut shell, from, request(number));
    }
    shell.pass(1000);
    assert_eq!(outcomes(&mut shell, from).len(), 9);
    let now = status(&shell);
    assert_eq!((now.instances[0].state, now.instances[0].failures, now.counts.ejections), ("healthy", 9, 0));
    // A second one: the next failure is one too many. When that goes, the first is back at once.
    let other = instance(&mut shell, provide(1, 1));
    for number in 11..=13 {
        ask(&mut shell, from, request(number));
    }
    let call = *calls(&mut shell, to).0.last().unwrap();
    fail(&mut shell, to, call.0);
    assert_eq!(status(&shell).instances[0].state, "ejected");
    shell.hang_up(other);
    assert_eq!(status(&shell).instances[0].state, "trial");
    all_go(shell, &[from, to]);
}

#[test]
fn no_more_than_a_share_of_the_instances_is_left_out() {
    for (instances, percent, most) in [(10, 10, 1), (10, 30, 3), (3, 100, 2), (25, 10, 2)] {
        let settings = ServiceSettings {
            eject_failures: 1,
            eject_percent_max: percent,
            timeout_millis: 10,
            ..settings()
        };
        let mut shell = shell(settings);
        let from = shell.native("c");
        let mut all: Vec<SessionId> = (0..instances).map(|_| instance(&mut shell, provide(1, 9))).collect();
        for number in 0..instances {
            ask(&mut shell, from, Request { timeout_millis: 0, ..request(number) });
        }
        shell.pass(10);
        assert_eq!(status(&shell).counts.ejections, most, "of {instances}, {percent} %");
        all.push(from);
        all_go(shell, &all);
    }
}
