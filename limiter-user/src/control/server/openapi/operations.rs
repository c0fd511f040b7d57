//! What each route is for.

/// A route, for people and programs.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) takes: Takes,
    pub(super) gives: Gives,
}

/// A parameter of a query.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// Of JSON Schema.
    pub(super) kind: &'static str,
    pub(super) required: bool,
    pub(super) about: &'static str,
}

/// The body of a request.
pub(super) enum Takes {
    Nothing,
    /// An object of this name.
    Json(&'static str),
    /// The same, with an Idempotency-Key.
    Once(&'static str),
    /// One of them, an array of them, or lines of them.
    Some(&'static str),
    Text(&'static str),
}

/// The body of an answer.
pub(super) enum Gives {
    Json(&'static str),
    /// A page of the first, or lines of the second.
    PageOrLines(&'static str, &'static str),
    Text(&'static str),
    /// Events of the first, and the second for those that were missed.
    Events(&'static str, &'static str),
    Description,
}

const fn optional(name: &'static str, kind: &'static str, about: &'static str) -> Parameter {
    Parameter { name, kind, required: false, about }
}

const LIST: &[Parameter] = &[
    optional("owner", "string", "Only the claims of this owner: `operator`, `app:NAME`, …"),
    optional(
        "limit",
        "integer",
        "Claims in a page, 1 to 1000. Absent: all of them, a line each, as a stream.",
    ),
    optional("cursor", "string", "`next` of the page before."),
];

/// All of them, in the order of the reference.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/reports",
        summary: "Say what addresses did. Policies of the configuration decide when that is enough for a block. All of an \
                  array is counted or nothing; of lines, each thousand by itself.",
        query: &[],
        takes: Takes::Some("Report"),
        gives: Gives::Json("ReportResponse"),
    },
    Operation {
        method: "get",
        path: "/v1/blocks",
        summary: "What is blocked, in the order of addresses.",
        query: LIST,
        takes: Takes::Nothing,
        gives: Gives::PageOrLines("ClaimPage", "Claim"),
    },
    Operation {
        method: "post",
        path: "/v1/blocks",
        summary: "Block addresses and prefixes: all of them or none. Answered when they are in force and durable.",
        query: &[],
        takes: Takes::Once("AddRequest"),
        gives: Gives::Json("AddResponse"),
    },
    Operation {
        method: "post",
        path: "/v1/blocks/remove",
        summary: "Take blocks back. What others claim stays in force, and is told.",
        query: &[],
        takes: Takes::Once("RemoveRequest"),
        gives: Gives::Json("RemoveResponse"),
    },
    Operation {
        method: "post",
        path: "/v1/blocks/import",
        summary: "Block a list of any length: all of it or nothing.",
        query: &[
            optional("for", "integer", "Seconds. Absent for good."),
            optional("reason", "string", "Kept with each of them; at most 256 bytes."),
            optional("owner", "string", "Whose claims these are; only operators may name others."),
            optional("force", "boolean", "Past the guards; operators only."),
            optional(
                "ssh_peer",
                "string",
                "Where the caller is logged in from, so that it cannot lock itself out.",
            ),
            optional("size", "integer", "Bytes that are about to come, if they are sent in chunks: a hint."),
            optional(
                "dry_run",
                "boolean",
                "Checks everything and says what would happen; nothing is changed.",
            ),
        ],
        takes: Takes::Text("An address or prefix a line; `#` and `;` begin comments."),
        gives: Gives::Json("AddResponse"),
    },
    Operation {
        method: "get",
        path: "/v1/allows",
        summary: "What is allowed, in the order of addresses.",
        query: LIST,
        takes: Takes::Nothing,
        gives: Gives::PageOrLines("ClaimPage", "Claim"),
    },
    Operation {
        method: "post",
        path: "/v1/allows",
        summary: "Let addresses and prefixes through, whatever blocks them: all of them or none.",
        query: &[],
        takes: Takes::Once("AddRequest"),
        gives: Gives::Json("AddResponse"),
    },
    Operation {
        method: "post",
        path: "/v1/allows/remove",
        summary: "Take allows back.",
        query: &[],
        takes: Takes::Once("RemoveRequest"),
        gives: Gives::Json("RemoveResponse"),
    },
    Operation {
        method: "get",
        path: "/v1/lookup/{address}",
        summary: "Every claim on an address, and whether it is dropped.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Json("Explanation"),
    },
    Operation {
        method: "get",
        path: "/v1/explain",
        summary: "What would happen to a packet, by the decision that the kernel runs, and why.",
        query: &[
            Parameter { name: "address", kind: "string", required: true, about: "The source." },
            optional("protocol", "integer", "As in the IP header: 6 for TCP, 17 for UDP."),
            optional("port", "integer", "Of the destination; needs a protocol."),
            optional("interface", "string", "Only the limits of this one."),
        ],
        takes: Takes::Nothing,
        gives: Gives::Json("Explanation"),
    },
    Operation {
        method: "get",
        path: "/v1/status",
        summary: "Whether everything is protected, and what is wrong.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Json("Status"),
    },
    Operation {
        method: "get",
        path: "/v1/counters",
        summary: "What was passed and dropped, by interface and reason.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Json("Counters"),
    },
    Operation {
        method: "get",
        path: "/v1/events",
        summary: "What happens to the lists, whoever asked for it, as server-sent events named `added`, `removed`, \
                  `expired`, `refused`; `lagged` in place of those that came faster than they were read. A comment \
                  every 15 s. At most 16 listeners from the network.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Events("Event", "Lagged"),
    },
    Operation {
        method: "post",
        path: "/v1/config/check",
        summary: "Whether a text would be a configuration. Nothing is changed, and no file that it names is opened.",
        query: &[],
        takes: Takes::Text("The configuration, as in its file."),
        gives: Gives::Json("Checked"),
    },
    Operation {
        method: "post",
        path: "/v1/reload",
        summary: "Read the configuration and its lists again.",
        query: &[optional(
            "confirm_seconds",
            "integer",
            "Rolls the configuration back after so many seconds, up to 3600, unless it is confirmed; not the files that it names.",
        )],
        takes: Takes::Nothing,
        gives: Gives::Json("Reloaded"),
    },
    Operation {
        method: "post",
        path: "/v1/detach",
        summary: "Take protection off interfaces.",
        query: &[],
        takes: Takes::Json("DetachRequest"),
        gives: Gives::Json("Detached"),
    },
    Operation {
        method: "get",
        path: "/v1/changes",
        summary: "The changes that are rolled back unless somebody confirms them.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Json("ChangeList"),
    },
    Operation {
        method: "post",
        path: "/v1/changes/{id}/confirm",
        summary: "Keep a change that was made with `confirm_seconds`: one's own, or as an operator anybody's.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Json("UnconfirmedChange"),
    },
    Operation {
        method: "get",
        path: "/v1/tokens",
        summary: "All tokens, without their secrets.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Json("TokenList"),
    },
    Operation {
        method: "post",
        path: "/v1/tokens",
        summary: "Make a token, for no more than the caller may do. Its secret is told only now.",
        query: &[],
        takes: Takes::Json("TokenRequest"),
        gives: Gives::Json("NewToken"),
    },
    Operation {
        method: "post",
        path: "/v1/tokens/{id}/revoke",
        summary: "End a token.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Json("Token"),
    },
    Operation {
        method: "post",
        path: "/v1/tokens/{id}/rotate",
        summary: "Give a token a new secret.",
        query: &[],
        takes: Takes::Json("RotateRequest"),
        gives: Gives::Json("NewToken"),
    },
    Operation {
        method: "get",
        path: "/v1/openapi.json",
        summary: "This description.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Description,
    },
    Operation {
        method: "get",
        path: "/healthz",
        summary: "Whether the daemon answers.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Text("`ok`"),
    },
    Operation {
        method: "get",
        path: "/readyz",
        summary: "Whether the lists are loaded and every configured interface is protected; 503 if not.",
        query: &[],
        takes: Takes::Nothing,
        gives: Gives::Text("`ready`"),
    },
];
