//! The probes: which program goes on which hook, and what it needs of the kernel.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Settings;
use crate::btf::{Argument, Btf};
use crate::offsets::Offsets;
use crate::tcp_probes;

/// Kinds of hooks, the one that loses least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RungKind {
    /// A BTF-typed raw tracepoint.
    TpBtf,
    /// The entry or the exit of a kernel function, by a trampoline (fentry, fexit).
    Function,
    /// A breakpoint on a kernel function.
    Kprobe,
    /// A timer of the kernel's performance events.
    PerfEvent,
}

/// A place in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint.
    TpBtf(&'static str),
    /// A function's entry.
    Fentry(&'static str),
    /// A function's exit.
    Fexit(&'static str),
    /// A function's entry.
    Kprobe(&'static str),
    /// The software clock of one CPU, so many times a second.
    CpuClock(u64),
}

/// A program and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The program in the object.
    pub program: &'static str,
    /// Where it goes.
    pub hook: Hook,
    /// The structs that the hook's first arguments point to (`""`: anything else).
    pub arguments: &'static [&'static str],
}

/// A way to attach a probe: all of its programs, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// What kind.
    pub kind: RungKind,
    /// What is attached.
    pub attachments: &'static [Attachment],
    /// What goes unseen compared with the best rung; empty: nothing.
    pub loss: &'static str,
}

/// One subject that is watched.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its stable name, in reports and metrics.
    pub name: &'static str,
    /// What goes unseen without it.
    pub loss: &'static str,
    /// Whether it has anything to do.
    pub wanted: fn(&Settings) -> bool,
    /// Ways to attach it, best first.
    pub rungs: &'static [Rung],
    /// Fields without which it is off, beside those that every probe needs.
    pub fields: &'static [&'static str],
}

/// A hook's argument whose place differs between kernels: programs find it in `.rodata`.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The program's symbol, a `u32` that becomes the argument's index, or `ABSENT`.
    pub symbol: &'static str,
    /// The hook.
    pub hook: Hook,
    /// Which argument.
    pub of: Of,
}

/// Which argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The function's argument of this name.
    Named(&'static str),
    /// What the function returns: after its last argument.
    Return,
    /// The one at this index, where there are so many.
    At(u32),
}

/// Arguments to look up.
pub const PLACES: &[Place] = &[
    tcp_probes::RETRANSMIT_ERROR,
    Place {
        symbol: "SWITCH_STATE",
        hook: Hook::TpBtf("sched_switch"),
        of: Of::At(3),
    },
    Place {
        symbol: "TCP_RECV_FLAGS",
        hook: Hook::Fexit("tcp_recvmsg"),
        of: Of::Named("flags"),
    },
    Place {
        symbol: "TCP_RECV_RETURN",
        hook: Hook::Fexit("tcp_recvmsg"),
        of: Of::Return,
    },
    Place {
        symbol: "UDP_RECV_FLAGS",
        hook: Hook::Fexit("udp_recvmsg"),
        of: Of::Named("flags"),
    },
    Place {
        symbol: "UDP_RECV_RETURN",
        hook: Hook::Fexit("udp_recvmsg"),
        of: Of::Return,
    },
    Place {
        symbol: "UDP6_RECV_FLAGS",
        hook: Hook::Fexit("udpv6_recvmsg"),
        of: Of::Named("flags"),
    },
    Place {
        symbol: "UDP6_RECV_RETURN",
        hook: Hook::Fexit("udpv6_recvmsg"),
        of: Of::Return,
    },
];

const BLOCK: &[&str] = &["RQ_FLAGS", "RQ_LEN", "GD_MAJOR", "GD_MINOR"];

fn has_processes(settings: &Settings) -> bool {
    settings.watch.has_processes()
}

fn has_cgroups(settings: &Settings) -> bool {
    !(settings.watch.units.is_empty() && settings.watch.cgroups.is_empty())
}

/// Fields without which no probe works.
const COMMON: &[&str] = &[
    "SK_FAMILY",
    "SK_STATE",
    "SK_DADDR",
    "SK_RCV_SADDR",
    "SK_DPORT",
    "SK_NUM",
    "SK_COOKIE",
    "SK_NET",
    "NET_INUM",
    "SK_ERR",
    "SK_ERR_SOFT",
];

/// All probes.
pub const PROBES: &[Probe] = &[
    tcp_probes::STATE,
    tcp_probes::RECEIVED,
    tcp_probes::SENT,
    tcp_probes::RETRANSMITTED,
    tcp_probes::SYN_ACK,
    tcp_probes::RESET_IN,
    tcp_probes::RESET_OUT,
    tcp_probes::ERROR,
    tcp_probes::DESTROYED,
    crate::message::PROBE,
    crate::udp::PROBE,
    Probe {
        name: "block",
        loss: "latency and errors of disks",
        wanted: |settings| settings.block,
        rungs: &[
            Rung {
                kind: RungKind::TpBtf,
                attachments: &[
                    Attachment {
                        program: "block_issue",
                        hook: Hook::TpBtf("block_rq_issue"),
                        arguments: &["request"],
                    },
                    Attachment {
                        program: "block_complete",
                        hook: Hook::TpBtf("block_rq_complete"),
                        arguments: &["request", "", ""],
                    },
                ],
                loss: "",
            },
            Rung {
                kind: RungKind::TpBtf,
                attachments: &[
                    Attachment {
                        program: "block_issue_second",
                        hook: Hook::TpBtf("block_rq_issue"),
                        arguments: &["request_queue", "request"],
                    },
                    Attachment {
                        program: "block_complete",
                        hook: Hook::TpBtf("block_rq_complete"),
                        arguments: &["request", "", ""],
                    },
                ],
                loss: "",
            },
            Rung {
                kind: RungKind::Function,
                attachments: &[
                    Attachment {
                        program: "block_issue_entry",
                        hook: Hook::Fentry("blk_mq_start_request"),
                        arguments: &["request"],
                    },
                    Attachment {
                        program: "block_complete_entry",
                        hook: Hook::Fentry("blk_update_request"),
                        arguments: &["request", "", ""],
                    },
                ],
                loss: "requests that complete in batches",
            },
            Rung {
                kind: RungKind::Kprobe,
                attachments: &[
                    Attachment {
                        program: "block_issue_kprobe",
                        hook: Hook::Kprobe("blk_mq_start_request"),
                        arguments: &["request"],
                    },
                    Attachment {
                        program: "block_complete_kprobe",
                        hook: Hook::Kprobe("blk_update_request"),
                        arguments: &["request", "", ""],
                    },
                ],
                loss: "requests that complete in batches, or while another probe runs on that CPU",
            },
        ],
        fields: BLOCK,
    },
    Probe {
        name: HEARTBEAT,
        loss: "how late records reach their reader, and that they no longer do",
        wanted: |_| true,
        rungs: &[Rung {
            kind: RungKind::PerfEvent,
            attachments: &[Attachment {
                program: "heartbeat",
                hook: Hook::CpuClock(4),
                arguments: &[],
            }],
            loss: "",
        }],
        fields: &[],
    },
    Probe {
        name: "watch_fork",
        loss: "children of watched processes, for some seconds",
        wanted: has_processes,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[Attachment {
                program: "watch_fork",
                hook: Hook::TpBtf("sched_process_fork"),
                arguments: &["task_struct", "task_struct"],
            }],
            loss: "",
        }],
        fields: &[
            "TASK_PID",
            "TASK_TGID",
            "TASK_CGROUPS",
            "CSS_CGROUP",
            "CGROUP_NODE",
            "NODE_ID",
        ],
    },
    Probe {
        name: "watch_exec",
        loss: "watched processes that start, for some seconds",
        wanted: has_processes,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[Attachment {
                program: "watch_exec",
                hook: Hook::TpBtf("sched_process_exec"),
                arguments: &["task_struct", "", "linux_binprm"],
            }],
            loss: "",
        }],
        fields: &[
            "TASK_PID",
            "TASK_TGID",
            "BPRM_FILENAME",
            "BPRM_FILE",
            "FILE_DENTRY",
            "DENTRY_NAME",
        ],
    },
    Probe {
        name: "watch_rename",
        loss: "processes that get a watched name, for some seconds; new names of threads",
        wanted: has_processes,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[Attachment {
                program: "watch_rename",
                hook: Hook::TpBtf("task_rename"),
                arguments: &["task_struct", ""],
            }],
            loss: "",
        }],
        fields: &["TASK_PID", "TASK_TGID"],
    },
    Probe {
        name: "watch_exit",
        loss: "entries of ended processes are kept for some seconds",
        wanted: has_processes,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[Attachment {
                program: "watch_exit",
                hook: Hook::TpBtf("sched_process_exit"),
                arguments: &["task_struct"],
            }],
            loss: "",
        }],
        fields: &["TASK_PID", "TASK_TGID", "TASK_SIGNAL", "SIGNAL_LIVE"],
    },
    Probe {
        name: "watch_cgroup",
        loss: "processes that are moved into a watched cgroup, for some seconds",
        wanted: has_cgroups,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[
                Attachment {
                    program: "watch_cgroup_attach",
                    hook: Hook::TpBtf("cgroup_attach_task"),
                    arguments: &["cgroup", "", "task_struct"],
                },
                Attachment {
                    program: "watch_cgroup_mkdir",
                    hook: Hook::TpBtf("cgroup_mkdir"),
                    arguments: &["cgroup", ""],
                },
                Attachment {
                    program: "watch_cgroup_rmdir",
                    hook: Hook::TpBtf("cgroup_rmdir"),
                    arguments: &["cgroup", ""],
                },
            ],
            loss: "",
        }],
        fields: &[
            "TASK_PID",
            "TASK_TGID",
            "CGROUP_NODE",
            "CGROUP_ROOT",
            "ROOT_HIERARCHY",
            "NODE_ID",
            "NODE_NAME",
            "NODE_PARENT",
        ],
    },
    // These three have one rung: where BTF tells offsets, it also types their tracepoints, which every
    // kernel has; functions inside the scheduler can be traced nowhere without losing calls.
    Probe {
        name: "sched_switch",
        loss: "who takes the CPU from watched threads, and how long they wait for one",
        wanted: has_processes,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[Attachment {
                program: "sched_switch",
                hook: Hook::TpBtf("sched_switch"),
                arguments: &["", "task_struct", "task_struct"],
            }],
            loss: "",
        }],
        fields: &[
            "TASK_PID",
            "TASK_TGID",
            "TASK_COMM",
            "TASK_FLAGS",
            "TASK_STATE",
        ],
    },
    Probe {
        name: "sched_wakeup",
        loss: "how long watched threads sleep, and when their wait for a CPU begins",
        wanted: has_processes,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[Attachment {
                program: "sched_wakeup",
                hook: Hook::TpBtf("sched_wakeup"),
                arguments: &["task_struct"],
            }],
            loss: "",
        }],
        fields: &["TASK_PID", "TASK_TGID", "TASK_COMM", "TASK_FLAGS"],
    },
    Probe {
        name: "sched_wakeup_new",
        loss: "the first wait of new threads",
        wanted: has_processes,
        rungs: &[Rung {
            kind: RungKind::TpBtf,
            attachments: &[Attachment {
                program: "sched_wakeup_new",
                hook: Hook::TpBtf("sched_wakeup_new"),
                arguments: &["task_struct"],
            }],
            loss: "",
        }],
        fields: &["TASK_PID", "TASK_TGID", "TASK_COMM", "TASK_FLAGS"],
    },
];

/// The probe that watches the others' way to user space; alone it is of no use.
pub const HEARTBEAT: &str = "heartbeat";

impl Probe {
    /// The fields that this kernel lacks, as reasons.
    pub fn missing_fields(&self, offsets: &Offsets) -> Vec<String> {
        let common = if self.name == HEARTBEAT { &[] } else { COMMON };
        common
            .iter()
            .chain(self.fields)
            .filter_map(|symbol| offsets.missing(symbol))
            .collect()
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TpBtf(name) => write!(f, "tp_btf/{name}"),
            Self::Fentry(name) => write!(f, "fentry/{name}"),
            Self::Fexit(name) => write!(f, "fexit/{name}"),
            Self::Kprobe(name) => write!(f, "kprobe/{name}"),
            Self::CpuClock(_) => f.write_str("perf_event/cpu-clock"),
        }
    }
}

impl Hook {
    /// What it passes, or why it is not there.
    fn arguments(&self, btf: &Btf) -> Result<Vec<Argument>, String> {
        match self {
            Self::TpBtf(name) => btf
                .tracepoint(name)
                .map_err(|error| error.to_string())?
                .ok_or_else(|| format!("this kernel has no tracepoint {name}")),
            Self::Fentry(name) | Self::Fexit(name) | Self::Kprobe(name) => btf
                .function(name)
                .map_err(|error| error.to_string())?
                .ok_or_else(|| format!("this kernel has no function {name}")),
            Self::CpuClock(_) => Ok(Vec::new()),
        }
    }
}

impl Rung {
    /// What is attached to, for people.
    pub fn hook(&self) -> String {
        let hooks: Vec<_> = self
            .attachments
            .iter()
            .map(|attachment| attachment.hook.to_string())
            .collect();
        hooks.join(" + ")
    }

    /// Whether this kernel has the hooks with the arguments that the programs read.
    pub fn check(&self, btf: &Btf) -> Result<(), String> {
        for attachment in self.attachments {
            let hook = attachment.hook;
            let found = hook.arguments(btf)?;
            for (index, wanted) in attachment.arguments.iter().enumerate() {
                let matches = match found.get(index) {
                    Some(Argument::Scalar) => wanted.is_empty(),
                    Some(Argument::Pointer(name)) => name == wanted || wanted.is_empty(),
                    None => false,
                };
                if !matches {
                    return Err(format!(
                        "argument {index} of {hook} is {:?} on this kernel, {wanted:?} expected",
                        found.get(index)
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Place {
    /// The argument's index; [`ebpf_abi::ABSENT`] where the hook or the argument is missing.
    pub fn index(&self, btf: &Btf) -> u32 {
        let Ok(found) = self.hook.arguments(btf) else {
            return ebpf_abi::ABSENT;
        };
        let index = match self.of {
            Of::Return => Some(found.len()),
            Of::At(index) => Some(index as usize).filter(|index| *index < found.len()),
            Of::Named(wanted) => match self.hook {
                Hook::Fentry(function) | Hook::Fexit(function) | Hook::Kprobe(function) => {
                    btf.parameter(function, wanted).ok().flatten()
                }
                Hook::TpBtf(_) | Hook::CpuClock(_) => None,
            },
        };
        index
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or(ebpf_abi::ABSENT)
    }
}
