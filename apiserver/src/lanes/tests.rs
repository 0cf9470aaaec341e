use super::*;

fn small(queue: usize, wait: Duration) -> Lanes {
    Lanes::new(Bounds { reading: 1, mutating: 1, system: 1, queue, wait })
}

#[test]
fn whose_request_goes_where() {
    let jane = User::of("jane", &[]);
    let node = User::of("system:node:n1", &["system:nodes"]);
    let scheduler = User::of("system:kube-scheduler", &[]);
    let pod = User::of("system:serviceaccount:a:b", &["system:serviceaccounts", "system:serviceaccounts:a"]);
    let addon = User::of("system:serviceaccount:kube-system:b", &["system:serviceaccounts:kube-system"]);
    for (user, verb, lane) in [
        (&jane, "list", Lane::Reading),
        (&jane, "get", Lane::Reading),
        (&jane, "create", Lane::Mutating),
        (&jane, "deletecollection", Lane::Mutating),
        (&pod, "patch", Lane::Mutating),
        (&node, "update", Lane::System),
        (&node, "get", Lane::System),
        (&scheduler, "create", Lane::System),
        (&addon, "list", Lane::System),
    ] {
        assert_eq!(Lane::of(user, verb), lane, "{} {verb}", user.name);
    }
    assert_eq!([Lane::Reading, Lane::Mutating, Lane::System].map(|l| l as usize), [0, 1, 2]);
}

#[tokio::test]
async fn a_full_lane_leaves_the_others_free() {
    let lanes = small(0, Duration::ZERO);
    let held = lanes.enter(Lane::Reading).await.unwrap();
    let refused = lanes.enter(Lane::Reading).await.unwrap_err();
    assert_eq!((refused.code().as_u16(), refused.reason()), (429, "TooManyRequests"));
    let _others = (lanes.enter(Lane::Mutating).await.unwrap(), lanes.enter(Lane::System).await.unwrap());
    let state = lanes.states()[0];
    assert_eq!((state.served, state.waiting, state.refused), (1, 0, 1));
    drop(held);
    assert!(lanes.enter(Lane::Reading).await.is_ok());
}

#[tokio::test]
async fn one_waits_for_its_turn_and_not_for_ever() {
    let lanes = small(1, Duration::from_millis(20));
    let held = lanes.enter(Lane::Mutating).await.unwrap();
    let (first, second, ()) = tokio::join!(lanes.enter(Lane::Mutating), lanes.enter(Lane::Mutating), async {
        // Both have asked by now: the future above ran first.
        assert_eq!(lanes.states()[1].waiting, 1);
        drop(held);
    });
    assert!(first.is_ok(), "it waited");
    assert!(second.is_err(), "the queue was full");
    assert!(lanes.enter(Lane::Mutating).await.is_err(), "the time is over");
    assert_eq!((lanes.states()[1].waiting, lanes.states()[1].refused), (0, 2));
}
