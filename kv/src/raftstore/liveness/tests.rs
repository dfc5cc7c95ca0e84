//! Two stores' links, carried to each other by hand.

use super::*;

const AT: fn(u64) -> MonotonicTime = |ms| MonotonicTime(ms * 1_000_000);

fn links(store_id: u64, incarnation: u64) -> Links {
    let mut links = Links::new(store_id, &RaftStoreConfig::default());
    links.set_incarnation(incarnation);
    links
}

/// Carries everything from one store to another.
fn carry(from: &mut Links, to: &mut Links, now: MonotonicTime) -> Vec<Withdrawal> {
    let mut withdrawals = Vec::new();
    for message in from.take_messages(now) {
        let beat = kv::StoreBeat::decode(message.message).unwrap();
        withdrawals.extend(to.on_beat(from.store_id, &beat, now).flatten());
    }
    withdrawals
}

fn rest_on(a: &mut Links, store_id: u64, now: MonotonicTime) -> Arc<RestLease> {
    let key = RestKey { voters: vec![a.grant(store_id)], needed: 1, ..RestKey::default() };
    a.group(key, now)
}

#[test]
fn the_lease_runs_from_the_moment_a_beat_was_sent() {
    let (mut a, mut b) = (links(1, 1), links(2, 1));
    a.ask(2, kv::RestAsk::default());
    carry(&mut a, &mut b, AT(100));
    carry(&mut b, &mut a, AT(400));
    let lease = rest_on(&mut a, 2, AT(400));
    assert_eq!(lease.valid_until(), AT(100 + 760));
    // An answer that is late or doubled does not extend it.
    carry(&mut b, &mut a, AT(900));
    a.extend_leases(AT(900), true);
    assert_eq!(lease.valid_until(), AT(860));
}

#[test]
fn answers_of_another_epoch_or_start_do_not_count() {
    let (mut a, mut b) = (links(1, 1), links(2, 1));
    a.ask(2, kv::RestAsk::default());
    carry(&mut a, &mut b, AT(100));
    carry(&mut b, &mut a, AT(100));
    let lease = rest_on(&mut a, 2, AT(100));
    let withdrawn = (1..=10).flat_map(|tick| b.tick(tick)).collect::<Vec<_>>();
    assert_eq!(withdrawn, [Withdrawal { store_id: 1, silent_ticks: 10 }]);
    a.ask(2, kv::RestAsk::default());
    carry(&mut a, &mut b, AT(1200));
    carry(&mut b, &mut a, AT(1200));
    a.extend_leases(AT(1200), false);
    assert_eq!(lease.valid_until(), AT(860), "the new epoch never promised");
    assert_eq!(a.broken_groups().len(), 1);

    let lease = rest_on(&mut a, 2, AT(1200));
    assert_eq!(lease.valid_until(), AT(1960));
    let mut b = links(2, 2);
    a.ask(2, kv::RestAsk::default());
    carry(&mut a, &mut b, AT(1500));
    assert_eq!(carry(&mut b, &mut a, AT(1500)), [Withdrawal { store_id: 2, silent_ticks: 0 }]);
    a.extend_leases(AT(1500), false);
    assert_eq!(lease.valid_until(), AT(1960));
}

#[test]
fn a_restarted_store_does_not_take_answers_to_its_past_for_its_own() {
    let (mut a, mut b) = (links(1, 1), links(2, 1));
    a.ask(2, kv::RestAsk::default());
    carry(&mut a, &mut b, AT(5000));
    let mut a = links(1, 2);
    carry(&mut b, &mut a, AT(6000));
    let lease = rest_on(&mut a, 2, AT(6000));
    assert_eq!(lease.valid_until(), AT(0));
}

#[test]
fn leaders_wake_when_an_absent_store_is_heard_or_one_stops_answering() {
    let (mut a, mut b) = (links(1, 1), links(2, 1));
    a.ask(2, kv::RestAsk::default());
    carry(&mut a, &mut b, AT(100));
    carry(&mut b, &mut a, AT(100));
    assert!(!a.is_absent(3));
    for tick in 0..100 {
        a.tick(tick);
        b.tick(tick);
        carry(&mut a, &mut b, AT(100 * tick));
        carry(&mut b, &mut a, AT(100 * tick));
    }
    assert!(a.is_absent(3));
    let voters = vec![a.grant(2)];
    let key = RestKey { voters, needed: 1, absent: vec![3], ..RestKey::default() };
    let _resting = a.group(key, AT(10_000));
    assert!(a.broken_groups().is_empty());
    a.heard(3, AT(10_000));
    assert_eq!(a.broken_groups().len(), 1);
    let _other = rest_on(&mut a, 2, AT(10_000));
    assert_eq!(a.broken_groups().len(), 1);
    (0..10).for_each(|tick| drop(a.tick(tick)));
    assert_eq!(a.broken_groups().len(), 2);
}

#[test]
fn who_is_alone_needs_nobody() {
    let mut a = links(1, 1);
    let lease = a.group(RestKey::default(), AT(100));
    assert_eq!(lease.valid_until(), AT(860));
    a.extend_leases(AT(500), true);
    assert_eq!(lease.valid_until(), AT(1260));
    assert!(a.broken_groups().is_empty());
}
