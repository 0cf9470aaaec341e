//! What people do and what goes wrong, and how often in one schedule.

use super::story::Story;

/// What people do, by how often.
const PEOPLE: [(u32, Act); 8] = [
    (6, Act::Scale),
    (4, Act::Update),
    (4, Act::Delete),
    (4, Act::Force),
    (1, Act::DeleteClaim),
    (2, Act::DeleteNode),
    (1, Act::OutOfService),
    (1, Act::FreeDisk),
];

#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    Scale,
    Update,
    Delete,
    Force,
    DeleteClaim,
    DeleteNode,
    OutOfService,
    FreeDisk,
}

/// What goes wrong, by how often.
const TROUBLES: [(u32, Trouble); 23] = [
    (5, Trouble::Crash),
    (2, Trouble::Repeat),
    (2, Trouble::Cut),
    (2, Trouble::Link),
    (2, Trouble::Return),
    (2, Trouble::KubeletEnds),
    (3, Trouble::KubeletStarts),
    (1, Trouble::Power),
    (1, Trouble::RepeatToKubelet),
    (1, Trouble::Relist),
    (1, Trouble::LongWait),
    (1, Trouble::AllSilent),
    (4, Trouble::Late),
    (2, Trouble::Takeover),
    (2, Trouble::NodeMadeAnew),
    (2, Trouble::LateTwin),
    (1, Trouble::StaleClaims),
    (1, Trouble::LateBinding),
    (1, Trouble::LateReservation),
    (1, Trouble::HalfReserved),
    (1, Trouble::FreedDisk),
    (1, Trouble::BackInService),
    (1, Trouble::ReplacedAndRepeated),
];

#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    Crash,
    Repeat,
    Cut,
    Link,
    Return,
    KubeletEnds,
    KubeletStarts,
    Power,
    RepeatToKubelet,
    Relist,
    LongWait,
    AllSilent,
    Late,
    Takeover,
    NodeMadeAnew,
    LateTwin,
    StaleClaims,
    LateBinding,
    LateReservation,
    HalfReserved,
    FreedDisk,
    BackInService,
    ReplacedAndRepeated,
    CameAndWent,
}

/// Where a search looks for what goes wrong without one rule: among schedules in which that rule is asked more often than
/// chance would have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Focus {
    Everywhere,
    Bindings,
    Reservations,
    HalfReservations,
    FreedDisks,
    NodesBackInService,
    RepeatedWatches,
    LateWatches,
}

impl Focus {
    pub(crate) const ALL: [Self; 7] = [
        Self::Bindings,
        Self::Reservations,
        Self::HalfReservations,
        Self::FreedDisks,
        Self::NodesBackInService,
        Self::RepeatedWatches,
        Self::LateWatches,
    ];

    /// What such schedules are about: claims that are bound to people's volumes, several at a time.
    pub(super) fn story(self, story: &mut Story) {
        let of_claims =
            [Self::Bindings, Self::Reservations, Self::HalfReservations, Self::FreedDisks].contains(&self);
        if of_claims {
            let static_volumes = self != Self::Bindings;
            *story =
                Story { static_volumes, wait_for_consumer: false, ordered: false, replicas: 1, ..*story };
        }
    }

    fn trouble(self) -> Option<Trouble> {
        match self {
            Self::Everywhere => None,
            Self::Bindings => Some(Trouble::LateBinding),
            Self::Reservations => Some(Trouble::LateReservation),
            Self::HalfReservations => Some(Trouble::HalfReserved),
            Self::FreedDisks => Some(Trouble::FreedDisk),
            Self::NodesBackInService => Some(Trouble::BackInService),
            Self::RepeatedWatches => Some(Trouble::ReplacedAndRepeated),
            Self::LateWatches => Some(Trouble::CameAndWent),
        }
    }
}

/// How often a search's own trouble happens: about every second time.
const OFTEN: u32 = 40;

/// What a schedule is prone to. Each leaves out some things and overdoes others: together they find more than the average
/// would.
pub(super) struct Temper {
    pub(super) people: Vec<(u32, Act)>,
    pub(super) troubles: Vec<(u32, Trouble)>,
    /// How often of four an operation of a kubelet has to wait.
    pub(super) slow: u8,
    /// How often of four a process sees all there is before it goes on.
    pub(super) fresh: u8,
    /// Containers end only when their time is up.
    pub(super) stubborn: bool,
}

impl Temper {
    pub(super) fn of(rng: &mut fastrand::Rng, focus: Focus) -> Self {
        let mut often = || rng.choice([0, 1, 1, 3]).unwrap_or(1);
        let people = PEOPLE.iter().map(|(weight, act)| (weight * often(), *act)).collect();
        let troubles = TROUBLES.iter().map(|(weight, trouble)| (weight * often(), *trouble));
        let troubles = troubles.chain(focus.trouble().map(|trouble| (OFTEN, trouble))).collect();
        Self { people, troubles, slow: rng.u8(..4), fresh: rng.u8(..4), stubborn: rng.bool() }
    }
}

/// One of them, by weight; `None` if none has any.
pub(super) fn pick<T: Copy>(rng: &mut fastrand::Rng, from: &[(u32, T)]) -> Option<T> {
    let all: u32 = from.iter().map(|(weight, _)| weight).sum();
    let mut at = if all == 0 { return None } else { rng.u32(..all) };
    from.iter()
        .find(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        })
        .map(|(_, what)| *what)
}
