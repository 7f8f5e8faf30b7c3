//! What can go wrong in a story. Each seed draws some kinds of fault, so that they meet in all combinations.
use super::api::Refusal;
use super::random::Random;
use super::server::Server;
use super::story::Story;
use pilothouse_api::Key;
use pilothouse_api::lifecycle::DeleteOptions;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The server dies between any two writes; another takes over with an empty memory.
    ServerDies,
    /// Another server leads, with another clock. The last writes of the one before are done or lost: it begins with a view
    /// that is proved fresh.
    LeaderChanges,
    WatchIsLost,
    WatchIsSlow,
    ChangeIsSeenTwice,
    SchedulerStartsOver,
    NodeIsSilent,
    ClockJumps,
    NodeClockJumps,
    WritesAreRefused,
    TimePasses,
    ContainerDies,
    AgentDies,
    MachineReboots,
    MachineIsReplaced,
}

const ALL: [Fault; 15] = [
    Fault::ServerDies,
    Fault::LeaderChanges,
    Fault::WatchIsLost,
    Fault::WatchIsSlow,
    Fault::ChangeIsSeenTwice,
    Fault::SchedulerStartsOver,
    Fault::NodeIsSilent,
    Fault::ClockJumps,
    Fault::NodeClockJumps,
    Fault::WritesAreRefused,
    Fault::TimePasses,
    Fault::ContainerDies,
    Fault::AgentDies,
    Fault::MachineReboots,
    Fault::MachineIsReplaced,
];

/// The kinds of fault of one story.
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn some(random: &mut Random) -> Self {
        let share = [0, 150, 400, 700, 1000][random.below(5)];
        Self(ALL.into_iter().filter(|_| random.chance(share)).collect())
    }

    pub fn next(&self, random: &mut Random) -> Option<Fault> {
        random.pick(&self.0).copied()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("nothing") } else { write!(f, "{:?}", self.0) }
    }
}

impl Fault {
    /// What happened, for the story.
    pub fn strike(self, story: &mut Story) -> String {
        let Story { random, api, server, machines, slow_steps, .. } = story;
        let at = random.below(machines.len());
        let machine = &mut machines[at];
        let name = machine.node.name.clone();
        match self {
            Self::ServerDies => {
                server.crash(api);
                "FAULT the server dies, and another takes over".into()
            }
            Self::LeaderChanges => {
                server.resign(api, random);
                *server = Server::new(api);
                server.skew_seconds = random.between(-5, 5);
                "FAULT another server leads; of what the last one was writing some is written still".into()
            }
            Self::WatchIsLost => {
                server.start_over(api);
                "FAULT the controllers lose their watch".into()
            }
            Self::WatchIsSlow => {
                *slow_steps = random.below(150);
                format!("FAULT the controllers' watch is slow for {slow_steps} looks")
            }
            Self::ChangeIsSeenTwice => {
                let seen = if random.chance(500) {
                    server.observe(api, 2)
                } else {
                    server.schedule_observes(api, 2)
                };
                if seen { "FAULT a change is seen twice".into() } else { String::new() }
            }
            Self::SchedulerStartsOver => {
                server.restart_scheduler(api);
                "FAULT the scheduler starts over".into()
            }
            Self::NodeIsSilent if machine.is_connected => {
                machine.cut(random);
                format!("FAULT {name} falls silent")
            }
            Self::NodeIsSilent => {
                machine.is_connected = true;
                format!("{name} is back")
            }
            Self::ClockJumps => {
                server.skew_seconds += random.between(-120, 600);
                format!("FAULT the server's clock jumps: it is {} s ahead", server.skew_seconds)
            }
            Self::NodeClockJumps => {
                machine.skew_seconds += random.between(-60, 120);
                format!("FAULT the clock of {name} jumps: it is {} s ahead", machine.skew_seconds)
            }
            Self::WritesAreRefused => {
                let kinds = [Refusal::Quota, Refusal::Invalid, Refusal::Away, Refusal::Unanswered];
                let (kind, count) =
                    (kinds[random.below(4)], u32::try_from(random.between(1, 20)).unwrap_or(1));
                api.refusals = Some((kind, count));
                format!("FAULT the next {count} writes are refused: {kind:?}")
            }
            Self::TimePasses => {
                let seconds = random.between(30, 400);
                api.pass(seconds * 1000);
                format!("FAULT nothing happens for {seconds} s")
            }
            Self::ContainerDies => {
                let dies = machine.crash_one(api, random);
                dies.map(|what| format!("FAULT on {name} {what}")).unwrap_or_default()
            }
            Self::AgentDies => {
                machine.lose_agent(api, random);
                format!("FAULT the agent of {name} dies and is started again")
            }
            Self::MachineReboots => {
                machine.reboot(api);
                format!("FAULT {name} reboots")
            }
            Self::MachineIsReplaced => {
                machine.replace();
                let _ = api.delete(&Key::new("nodes", "", &*name), &DeleteOptions::default());
                format!(
                    "FAULT {name} burns down; its node is deleted, and another machine comes by that name"
                )
            }
        }
    }
}
