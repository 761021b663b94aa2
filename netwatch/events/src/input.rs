//! What the engine is fed, in one order.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    BgpSignal, BlockOperation, EgressName, FibChange, IncidentId, PlanId, ProbeResult,
    RevertReason, TcpEvent, Timestamp,
};

/// The health of this host and its links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum HostSignal {
    /// An egress's interface gained or lost carrier, or went up or down.
    Carrier {
        /// Which egress.
        egress: EgressName,
        /// It can carry packets (`IFF_UP` and `IFF_LOWER_UP`).
        up: bool,
    },
    /// Neighbour resolution for an egress's gateway failed, or works again (`NUD_FAILED`).
    Neighbor {
        /// Which egress.
        egress: EgressName,
        /// The gateway.
        gateway: IpAddr,
        /// Resolved.
        reachable: bool,
    },
    /// A timer of ours fired late: this process or the whole machine stood still.
    TimerLag {
        /// By so much.
        lag: Duration,
    },
    /// A disk was slow: a request took far longer than is usual for it.
    DiskSlow {
        /// The disk, such as `nvme0n1`.
        device: String,
        /// What the request did.
        operation: BlockOperation,
        /// When it completed.
        ended_at: Timestamp,
        /// From its insertion, or its issue where that is not known, to its completion.
        took: Duration,
        /// The 99th percentile of the device and operation, where enough were seen.
        usual: Option<Duration>,
    },
    /// A watched thread waited long for a CPU.
    RunQueueDelay {
        /// The thread's name.
        thread: String,
        /// Its process id.
        pid: u32,
        /// When it got a CPU.
        ended_at: Timestamp,
        /// How long it waited.
        waited: Duration,
        /// The CPU was taken from it; otherwise it had slept and was woken.
        preempted: bool,
        /// Who had the CPU meanwhile.
        by: Option<String>,
    },
    /// This host sends so much through an egress, told once a second.
    Sending {
        /// Which egress.
        egress: EgressName,
        /// Bytes per second.
        rate: u64,
    },
    /// Observations were lost: the detector's confidence sinks.
    Lost {
        /// Where.
        stage: LossStage,
        /// How many.
        count: u64,
    },
}

/// Where observations can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossStage {
    /// The urgent ring was full.
    UrgentRing,
    /// The bulk ring was full.
    BulkRing,
    /// The kernel's table of sockets was full.
    SocketTable,
    /// A queue in user space was full.
    Queue,
}

/// A person's or a tool's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum OperatorCommand {
    /// The kill switch was set or removed.
    KillSwitch {
        /// It is set: nothing may be installed, what is installed goes.
        engaged: bool,
    },
    /// People work on the network, or no longer: meanwhile nothing new may be installed, what is
    /// installed stays.
    Maintenance {
        /// A window began, or goes on for another reason.
        active: bool,
        /// What the window is for.
        reason: Option<String>,
    },
    /// Take back the routes of one plan, or of all.
    Rollback {
        /// Which; `None`: all.
        plan: Option<PlanId>,
    },
    /// The daemon stops: take everything back.
    Stop,
}

/// How an effect went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// The kernel acknowledged all routes of the plan (in shadow mode: would have).
    Installed {
        /// Which plan.
        plan: PlanId,
    },
    /// At least one route failed; none of the plan's is left.
    InstallFailed {
        /// Which plan.
        plan: PlanId,
        /// What the kernel said, and of which route.
        error: String,
    },
    /// The plan's routes are gone.
    Reverted {
        /// Which plan.
        plan: PlanId,
        /// Why.
        reason: RevertReason,
    },
    /// A route of ours disappeared by another's hand.
    RouteLost {
        /// Which plan.
        plan: PlanId,
        /// The route, in words.
        route: String,
        /// It was put back.
        restored: bool,
    },
    /// Connections with a backed-off retransmission timer were looked for and nudged.
    Nudged {
        /// For which incident.
        incident: IncidentId,
        /// Connections that were nudged.
        connections: u32,
        /// Connections beyond the cap, which were not.
        left: u32,
        /// Why the others were not.
        error: Option<String>,
    },
    /// An attempt to page began to leave this host.
    PageSent {
        /// For which incident.
        incident: IncidentId,
        /// Through which egress, where it was chosen.
        egress: Option<EgressName>,
        /// 1 for the first.
        attempt: u32,
    },
    /// The pager accepted (202).
    PageAccepted {
        /// For which incident.
        incident: IncidentId,
        /// Through which egress.
        egress: Option<EgressName>,
        /// 1 for the first.
        attempt: u32,
    },
    /// An attempt failed.
    PageFailed {
        /// For which incident.
        incident: IncidentId,
        /// How.
        error: String,
        /// 1 for the first.
        attempt: u32,
        /// It will not be tried again.
        permanent: bool,
    },
}

/// Everything that the engine can be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "input")]
pub enum Input {
    /// From the kernel.
    Tcp(TcpEvent),
    /// From the routers.
    Bgp(BgpSignal),
    /// From the prober.
    Probe(ProbeResult),
    /// From the kernel's routing table.
    Fib(FibChange),
    /// From this host.
    Host(HostSignal),
    /// How an effect went.
    Outcome(Outcome),
    /// From a person.
    Operator(OperatorCommand),
    /// Time passed, nothing else.
    Timeout,
}

/// An input in its place: what the flight recorder keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sequenced {
    /// Position in the one order, without gaps.
    pub sequence: u64,
    /// The engine's time when it was handled. It never decreases.
    pub at: Timestamp,
    /// The input.
    pub input: Input,
}
