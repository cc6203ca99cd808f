-- A Wireshark dissector of the Sluice protocol, version 1, as Protocol/Specification.md has it.
--
--     wireshark -X lua_script:Tools/wireshark/sluice.lua -o tls.keylog_file:KEYS capture.pcapng
--
-- TLS hands it what has the application protocol sluice/1; it needs the keys of the session, which
-- a peer writes where SSLKEYLOGFILE says. Fields are named as in the Python codec: sluice.model,
-- sluice.deadline_ms and so on; sluice.stream is the slot, sluice.task_id the task on both of its
-- connections. What a receiver must refuse has an expert item and the fields sluice.fault.*.
--
-- Prompts, answers and credentials are shown as lengths alone unless a preference asks for more.
-- The decrypted bytes are in the window of TLS all the same: a key log is a secret.

local sluice = Proto("sluice", "Sluice")

sluice.prefs.content = Pref.bool("Show content", false,
    "Show bytes of prompts and answers: SUBMIT, BODY, ASSIGN and TOKENS")
sluice.prefs.credentials = Pref.bool("Show credentials", false,
    "Show credentials, idempotency keys and affinity keys")

local HEADER_BYTES, PAYLOAD_MAX, STREAM_MAX = 12, 16372, 1024
local EXTENSION_RUN_MAX, MODEL_MAX = 4096, 88
local CREDIT_MAX, PRICE_MAX = UInt64(0, 0x40000000), UInt64(0xFFFFFFFF, 0)

-- The tables of section 17: codes by number, and the ranges of each scope.
local CODES = {
    [0] = "completed", "protocol_violation", "frame_too_large", "unknown_kind",
    "malformed_payload", "unexpected_frame", "version_mismatch", "unauthenticated", "forbidden",
    "stream_in_use", "stream_out_of_range", "credit_exceeded", "invalid_offer",
    "handshake_timeout", "keep_alive_timeout", "flood", "stalled_reader", "too_many_connections",
    "internal_fault", "shutting_down",
    [32] = "cancelled", [33] = "stalled", [34] = "deadline_exceeded", [35] = "supplier_lost",
    [36] = "supplier_failed", [37] = "budget_exhausted", [38] = "drained",
    [48] = "model_unknown", [49] = "no_supplier", [50] = "queue_full", [51] = "rate_limited",
    [52] = "unsupported", [53] = "body_too_large", [54] = "body_mismatch",
    [55] = "body_arena_full", [56] = "upload_timeout", [57] = "journal_full", [58] = "draining",
    [59] = "invalid_request", [60] = "insufficient_funds", [61] = "not_permitted",
    [62] = "duplicate",
    [80] = "declined", [81] = "upstream_unavailable", [82] = "upstream_refused",
}
local function of_connection(code) return code >= 1 and code <= 19 end
local function of_stream(code) return code == 0 or code >= 32 end
local function of_cancel(code) return code >= 32 and code <= 47 end

local NAMES = {
    role = { "client", "supplier" },
    credential_kind = { "API key", "supplier token", "client certificate" },
    operation = { "chat", "completion", "embedding", "image" },
    encoding = { "text", "openai" },
    preference = { [0] = "balanced", "price", "latency", "throughput" },
    supply_type = { "community", "dedicated", "datacenter", "provider", "platform" },
    data_policy = { [0] = "unstated", "no training", "no retention" },
    quantisation = { [0] = "unstated", "fp32", "fp16", "bf16", "fp8", "int8", "int6", "int5",
        "int4", "fp4" },
    finish_reason = { [0] = "stop", "length", "other" },
    code = CODES,
}

-- MARK: Layouts

-- A row is name, bytes and, where the specification bounds it, the least and greatest value. A name
-- is one field whichever kind it is in. `reserved` is expected to be 0 and ignored.
local OPERATIONS = { "operation", 1, 1, 4 }
local ENCODINGS = { "encoding", 1, 1, 2 }
local EXTENSIONS = { "extension_bytes", 2, 0, EXTENSION_RUN_MAX }
local LIMITS = { { "max_input_tokens", 4 }, { "max_output_tokens", 4 },
    { "max_reasoning_tokens", 4 } }
local TASK = { { "instance", 8 }, { "counter", 8 } }
local PING = { { "value", 8 } }

local function price(name) return { name, 8, 0, PRICE_MAX } end

local KINDS = {
    [0x01] = { name = "HELLO", tail = { "credential", "extensions" }, known = { 0x0001 },
        rows = { { "oldest_version", 2 }, { "newest_version", 2 }, { "role", 1, 1, 2 },
            { "credential_kind", 1, 1, 3 }, { "credential_bytes", 2, 0, 512 },
            { "body_credit", 8, 0, CREDIT_MAX }, EXTENSIONS },
        holds = function(v) return v.oldest_version <= v.newest_version end },
    [0x02] = { name = "WELCOME", tail = { "extensions" }, known = { 0x0002 },
        rows = { { "version", 2 }, { "shard", 2 }, { "shards", 2, 1, 65535 }, EXTENSIONS,
            { "max_streams", 4, 1, STREAM_MAX }, { "max_body_bytes", 4 }, { "upload_limit", 8 },
            { "instance", 8 }, { "max_deadline_ms", 4 },
            { "keep_alive_ms", 4, 1, 0xFFFFFFFF } },
        holds = function(v) return v.shard < v.shards end },
    [0x03] = { name = "PING", rows = PING },
    [0x04] = { name = "PONG", rows = PING },
    [0x05] = { name = "GO-AWAY", scope = of_connection,
        rows = { { "code", 2 }, { "reserved", 2 }, { "grace_ms", 4 } } },
    [0x06] = { name = "ERROR", scope = of_connection,
        rows = { { "code", 2 }, { "kind_at_fault", 1 }, { "reserved", 1 },
            { "stream_at_fault", 4 } } },
    [0x10] = { name = "OFFER", tail = { "model", "extensions" }, known = { 0x0020 },
        rows = { { "offer", 4, 1, 0xFFFFFFFF }, { "context_tokens", 4 }, price("input_price"),
            price("cached_price"), price("output_price"), price("reasoning_price"),
            { "supply_type", 1, 1, 5 }, { "data_policy", 1, 0, 2 }, { "quantisation", 1, 0, 9 },
            { "operations", 1, 1, 0x0F }, { "encodings", 1, 1, 0x03 }, { "reserved", 1 },
            { "model_bytes", 2 }, EXTENSIONS } },
    [0x11] = { name = "GRANT", rows = { { "offer", 4 }, { "slots", 4, 0, 65536 } } },
    [0x12] = { name = "WITHDRAW", rows = { { "offer", 4 } } },
    [0x18] = { name = "ASK", rows = { { "question", 4 }, { "reserved", 4 } } },
    [0x19] = { name = "REPORT", tail = { "model", "counts" }, no_model = true,
        rows = { { "question", 4 }, { "rows_left", 2 }, { "model_bytes", 2 },
            { "counts", 2, 0, 256 }, { "reserved", 2 } } },
    [0x20] = { name = "SUBMIT", task = true, tail = { "model", "extensions", "body" },
        known = { 0x0011, 0x0016, 0x8010, 0x8012, 0x8013, 0x8014, 0x8015, 0x8017 },
        rows = { OPERATIONS, ENCODINGS, { "priority", 1 }, { "preference", 1, 0, 3 },
            { "body_bytes", 4 }, { "deadline_ms", 4 }, LIMITS[1], LIMITS[2], LIMITS[3],
            { "reserve_bytes", 4 }, { "model_bytes", 2 }, EXTENSIONS,
            { "credit", 8, 0, CREDIT_MAX }, { "budget", 8, 0, CREDIT_MAX } } },
    [0x21] = { name = "BODY", task = true, rows = {}, tail = { "body" } },
    [0x22] = { name = "QUEUED", task = true,
        rows = { TASK[1], TASK[2], { "reserve_bytes", 4 }, { "position", 4 } } },
    [0x23] = { name = "ASSIGN", task = true, tail = { "extensions", "body" }, known = { 0x0016 },
        rows = { TASK[1], TASK[2], OPERATIONS, ENCODINGS, { "priority", 1 }, { "reserved", 1 },
            { "offer", 4, 1, 0xFFFFFFFF }, { "body_bytes", 4 }, { "deadline_ms", 4 }, LIMITS[1],
            LIMITS[2], LIMITS[3], EXTENSIONS, { "reserved", 2 },
            { "credit", 8, 0, CREDIT_MAX } } },
    [0x24] = { name = "STARTED", task = true,
        rows = { { "input_tokens", 4 }, { "cached_tokens", 4 } },
        holds = function(v) return v.cached_tokens <= v.input_tokens end },
    [0x25] = { name = "TOKENS", task = true, rows = {}, tail = { "content" } },
    [0x26] = { name = "END", task = true, scope = of_stream,
        rows = { { "code", 2 }, { "finish_reason", 1, 0, 2 }, { "reserved", 1 },
            { "input_tokens", 4 }, { "cached_tokens", 4 }, { "output_tokens", 4 },
            { "reasoning_tokens", 4 }, { "retry_after_ms", 4 }, { "cost", 8, 0, CREDIT_MAX } },
        holds = function(v)
            return v.cached_tokens <= v.input_tokens and v.reasoning_tokens <= v.output_tokens
        end },
    [0x27] = { name = "CANCEL", task = true, scope = of_cancel,
        rows = { { "code", 2 }, { "reserved", 2 } } },
    [0x28] = { name = "CREDIT", task = true, rows = { { "limit", 8, 0, CREDIT_MAX } } },
}
local TOKENS, QUEUED, ASSIGN, CREDIT = 0x25, 0x22, 0x23, 0x28

-- MARK: Fields

local fields = {}

local function declare(name, kind, label, ...)
    fields[name] = ProtoField[kind]("sluice." .. name, label, ...)
end

local kind_names = {}
for number, kind in pairs(KINDS) do kind_names[number] = kind.name end

declare("payload_bytes", "uint32", "Payload bytes")
declare("kind", "uint8", "Kind", base.HEX, kind_names)
declare("flags", "uint8", "Flags", base.HEX)
declare("flags.reasoning", "bool", "Reasoning", 8, nil, 0x01)
declare("flags.error", "bool", "Error", 8, nil, 0x02)
declare("flags.ignorable", "bool", "Ignorable", 8, nil, 0x80)
declare("tokens", "uint16", "Tokens")
declare("stream", "uint32", "Stream")
declare("task_id", "string", "Task")
declare("fault.code", "string", "Fault")
declare("fault.detail", "string", "Fault, more finely")

local HEX = { instance = true, value = true, operations = true, encodings = true,
    kind_at_fault = true }
for _, kind in pairs(KINDS) do
    for _, row in ipairs(kind.rows) do
        local name, size = row[1], row[2]
        if name ~= "reserved" and not fields[name] then
            declare(name, "uint" .. 8 * size, (name:gsub("_", " ")),
                HEX[name] and base.HEX or base.DEC, NAMES[name])
        end
    end
end

declare("credential", "bytes", "credential")
declare("model", "string", "model")
declare("count.number", "uint16", "Number")
declare("count.value", "uint64", "Value")
declare("body", "bytes", "body")
declare("body_here_bytes", "uint32", "body bytes in this frame")
declare("content", "bytes", "content")
declare("content_bytes", "uint32", "content bytes")
declare("extension", "bytes", "Extension")
declare("extension.type", "uint16", "Type", base.HEX)
declare("extension.critical", "bool", "Critical", 16, nil, 0x8000)
declare("extension.bytes", "uint16", "Value bytes")
declare("agent", "string", "agent")
declare("brokers", "string", "brokers")
declare("region", "string", "region")
declare("affinity_keys", "bytes", "affinity key")
declare("idempotency_key", "bytes", "idempotency key")
declare("trace.high", "uint64", "trace id, high half", base.HEX)
declare("trace.low", "uint64", "trace id, low half", base.HEX)
declare("trace.parent", "uint64", "parent span", base.HEX)
declare("price_ceilings.input", "uint64", "highest input price")
declare("price_ceilings.output", "uint64", "highest output price")
declare("supply_types", "uint8", "supply types", base.HEX)
declare("hedge_copies", "uint8", "copies at most")

local list = {}
for _, each in pairs(fields) do list[#list + 1] = each end
sluice.fields = list

local experts = {
    refused = ProtoExpert.new("sluice.refused", "A receiver refuses this frame",
        expert.group.MALFORMED, expert.severity.ERROR),
    ignored = ProtoExpert.new("sluice.ignored", "Reserved bits that are not 0",
        expert.group.PROTOCOL, expert.severity.NOTE),
    useless = ProtoExpert.new("sluice.useless", "A frame without effect",
        expert.group.PROTOCOL, expert.severity.WARN),
    told = ProtoExpert.new("sluice.told", "The sender ends the connection",
        expert.group.RESPONSE_CODE, expert.severity.WARN),
}
sluice.experts = { experts.refused, experts.ignored, experts.useless, experts.told }

-- MARK: Extensions

local function number_of(range)
    local size = range:len()
    if size == 8 then return range:le_uint64() end
    return range:le_uint()
end

-- Only bytes of 0x21…0x7E.
local function is_visible(range)
    return not range:raw():find("[^\33-\126]")
end

local function is_utf8(range)
    local text, at = range:raw(), 1
    while at <= #text do
        local first = text:byte(at)
        local more = first < 0x80 and 0 or first >= 0xC2 and first < 0xE0 and 1
            or first >= 0xE0 and first < 0xF0 and 2 or first >= 0xF0 and first < 0xF5 and 3 or nil
        if not more or #text < at + more then return false end
        for index = at + 1, at + more do
            local byte = text:byte(index)
            if byte < 0x80 or byte > 0xBF then return false end
        end
        local second = text:byte(at + 1)
        if first == 0xE0 and second < 0xA0 or first == 0xED and second > 0x9F
            or first == 0xF0 and second < 0x90 or first == 0xF4 and second > 0x8F then
            return false
        end
        at = at + 1 + more
    end
    return true
end

-- Each reader shows a value and says which fault it has, if any.
local function text_reader(name, least, most, fault_of_size, is_text)
    return function(tree, range, size)
        if size < least or size > most then return fault_of_size end
        if size > 0 and not is_text(range) then return "invalid_text" end
        if size > 0 then tree:add(fields[name], range, range:string(ENC_UTF_8)) end
    end
end

local function byte_reader(name, least, most)
    return function(tree, range, size)
        if size ~= 1 then return "bad_extension" end
        tree:add(fields[name], range)
        if range:uint() < least or range:uint() > most then return "value_out_of_range" end
    end
end

local function numbers_reader(...)
    local names = { ... }
    return function(tree, range, size)
        if size ~= 8 * #names then return "bad_extension" end
        for index, name in ipairs(names) do
            tree:add_le(fields[name], range:range(8 * (index - 1), 8))
        end
    end
end

local function key_reader(name, most, step)
    return function(tree, range, size)
        if size < 1 or size > most or size % step ~= 0 then return "bad_extension" end
        if not sluice.prefs.credentials then return end
        local each = step > 1 and step or size
        for at = 0, size - 1, each do tree:add(fields[name], range:range(at, each)) end
    end
end

local region = text_reader("region", 1, 16, "invalid_text", is_visible)
local EXTENSION_TYPES = {
    [0x0001] = { "agent", text_reader("agent", 0, 64, "bad_extension", is_utf8) },
    [0x0002] = { "brokers", text_reader("brokers", 0, 1024, "bad_extension", is_visible) },
    [0x0011] = { "affinity keys", key_reader("affinity_keys", 128, 16) },
    [0x0016] = { "trace", numbers_reader("trace.high", "trace.low", "trace.parent") },
    [0x0020] = { "region", region },
    [0x8010] = { "idempotency key", key_reader("idempotency_key", 64, 1) },
    [0x8012] = { "price ceilings",
        numbers_reader("price_ceilings.input", "price_ceilings.output") },
    [0x8013] = { "region", region },
    [0x8014] = { "data policy", byte_reader("data_policy", 0, 2) },
    [0x8015] = { "supply types", byte_reader("supply_types", 1, 255) },
    [0x8017] = { "copies", byte_reader("hedge_copies", 1, 255) },
}

-- Reads a run by [X1], [X2], [X4]; returns the first fault.
local function dissect_extensions(tree, run, known)
    local at, last, size = 0, -1, run:len()
    while at < size do
        if size - at < 4 then return "bad_extension" end
        local kind, length = run(at, 2):le_uint(), run(at + 2, 2):le_uint()
        if kind <= last or size - at < 4 + length then return "bad_extension" end
        local is_known = false
        for _, each in ipairs(known) do is_known = is_known or each == kind end
        local name = is_known and EXTENSION_TYPES[kind][1] or "unknown"
        local branch = tree:add(run(at, 4 + length), "Extension: " .. name)
        branch:add_le(fields["extension.type"], run(at, 2))
        branch:add_le(fields["extension.critical"], run(at, 2))
        branch:add_le(fields["extension.bytes"], run(at + 2, 2))
        if is_known then
            local value = length > 0 and run(at + 4, length) or nil
            local fault = EXTENSION_TYPES[kind][2](branch, value, length)
            if fault then return fault end
        elseif kind >= 0x8000 then
            return "unknown_critical_extension"
        end
        at, last = at + 4 + length, kind
    end
end

-- MARK: Payloads

-- Shows the fixed fields; returns their values, how many bytes they took, and the first fault.
local function dissect_rows(tree, payload, kind)
    local values, at, fault = {}, 0, nil
    for _, row in ipairs(kind.rows) do
        local name, size, least, most = row[1], row[2], row[3], row[4]
        if at + size > payload:len() then return values, at, "truncated" end
        local range = payload(at, size)
        if name == "reserved" then
            if range:le_uint() ~= 0 then
                tree:add_proto_expert_info(experts.ignored, "Reserved bytes that are not 0 [F2]")
            end
        else
            tree:add_le(fields[name], range)
            values[name] = number_of(range)
            -- 64-bit values have no least value above 0.
            if most and (values[name] > most or size < 8 and values[name] < least) then
                fault = fault or "value_out_of_range"
            end
        end
        at = at + size
    end
    return values, at, fault
end

local function check_values(kind, values)
    if kind.scope and not (CODES[values.code] and kind.scope(values.code)) then
        return "value_out_of_range" -- [N1]
    end
    if kind.holds and not kind.holds(values) then return "value_out_of_range" end
    local least = kind.no_model and 0 or 1
    if values.model_bytes and (values.model_bytes < least or values.model_bytes > MODEL_MAX) then
        return "invalid_text"
    end
end

local function show_content(tree, range, size, name, length_name)
    if size > 0 then
        tree:add(fields[length_name], range, size)
        if sluice.prefs.content then tree:add(fields[name], range) end
    else
        tree:add(fields[length_name], 0):set_generated()
    end
end

-- Numbers of a report's row with their values; false where they do not rise.
local function show_counts(tree, range, count)
    local last = -1
    for index = 0, count - 1 do
        local number = range:range(10 * index, 2)
        if number:le_uint() <= last then return false end
        last = number:le_uint()
        tree:add_le(fields["count.number"], number)
        tree:add_le(fields["count.value"], range:range(10 * index + 2, 8))
    end
    return true
end

-- Shows what follows the fixed fields; returns where it ended and the first fault.
local function dissect_tail(tree, payload, at, kind, values)
    for _, part in ipairs(kind.tail or {}) do
        local left = payload:len() - at
        local size = part == "credential" and values.credential_bytes
            or part == "model" and values.model_bytes
            or part == "extensions" and values.extension_bytes
            or part == "counts" and 10 * values.counts or left
        if size > left then return at, "truncated" end
        local range = size > 0 and payload(at, size) or nil
        if part == "credential" then
            if range and sluice.prefs.credentials then tree:add(fields.credential, range) end
        elseif part == "counts" then
            if not show_counts(tree, range, values.counts) then return at, "value_out_of_range" end
        elseif part == "model" and range then
            if range:raw():find("[^%w._:/@-]") then return at, "invalid_text" end
            tree:add(fields.model, range)
        elseif part == "extensions" and range then
            local fault = dissect_extensions(tree, range, kind.known)
            if fault then return at, fault end
        elseif part == "body" then
            show_content(tree, range, size, "body", "body_here_bytes")
        elseif part == "content" then
            show_content(tree, range, size, "content", "content_bytes")
        end
        at = at + size
    end
    return at, nil
end

-- Shows a payload; returns the values and the first fault of its form [F4].
local function dissect_payload(tree, payload, kind)
    local values, at, fault = dissect_rows(tree, payload, kind)
    if fault == "truncated" then return values, fault end
    if not kind.tail and at < payload:len() then return values, "trailing_bytes" end
    fault = fault or check_values(kind, values)
    if fault then return values, fault end
    at, fault = dissect_tail(tree, payload, at, kind, values)
    if not fault and at < payload:len() then fault = "trailing_bytes" end
    return values, fault
end

-- MARK: Streams

-- tcp.stream and slot → the tasks on it, each with the packet where it began there.
local tcp_stream = Field.new("tcp.stream")
local tasks = {}

function sluice.init() tasks = {} end

local function show_task(tree, pinfo, number, stream, values)
    local connection = tcp_stream()
    if stream == 0 or not connection then return end
    local key = tostring(connection) .. ":" .. stream
    local known = tasks[key] or {}
    tasks[key] = known
    if (number == QUEUED or number == ASSIGN) and values.counter and not pinfo.visited then
        local id = values.instance:tohex() .. values.counter:tohex() -- [Q5]
        known[#known + 1] = { since = pinfo.number, id = id }
    end
    for index = #known, 1, -1 do
        if known[index].since <= pinfo.number then
            tree:add(fields.task_id, known[index].id):set_generated()
            return
        end
    end
end

-- MARK: Frames

local function bit_set(byte, mask) return math.floor(byte / mask) % 2 == 1 end

-- The faults that a header shows by itself, in the order of [M1].
local function header_fault(length, number, flags, stream)
    local kind = KINDS[number]
    if length > PAYLOAD_MAX then return "frame_too_large" end
    if not kind then return not bit_set(flags, 0x80) and "unknown_kind" or nil end
    if not kind.task then return stream ~= 0 and "unexpected_frame" or nil end
    if stream > STREAM_MAX or stream == 0 and number ~= CREDIT then
        return "stream_out_of_range"
    end
end

local function dissect_header(tree, header)
    tree:add_le(fields.payload_bytes, header(0, 4))
    tree:add(fields.kind, header(4, 1))
    local flags = tree:add(fields.flags, header(5, 1))
    for _, name in ipairs({ "flags.reasoning", "flags.error", "flags.ignorable" }) do
        flags:add(fields[name], header(5, 1))
    end
    tree:add_le(fields.tokens, header(6, 2))
    tree:add_le(fields.stream, header(8, 4))
end

local function note_ignored(tree, number, flags, tokens)
    local meant = number == TOKENS and flags % 4 or 0
    if flags % 128 ~= meant then
        tree:add_proto_expert_info(experts.ignored, "Flags that this kind does not have [F3]")
    end
    if tokens ~= 0 and number ~= TOKENS then
        tree:add_proto_expert_info(experts.ignored, "Tokens on another kind than TOKENS [F2]")
    end
end

local function summary(number, stream, tokens, values, length)
    local kind = KINDS[number]
    local text = kind and kind.name or string.format("kind 0x%02x", number)
    if stream > 0 then text = text .. "[" .. stream .. "]" end
    if number == TOKENS then text = text .. " +" .. tokens .. ", " .. length .. " bytes" end
    if values.code then text = text .. " " .. (CODES[values.code] or values.code) end
    if values.limit then text = text .. " " .. tostring(values.limit) end
    return text
end

local function dissect_frame(tvb, pinfo, root)
    local length, number, flags = tvb(0, 4):le_uint(), tvb(4, 1):uint(), tvb(5, 1):uint()
    local tokens, stream = tvb(6, 2):le_uint(), tvb(8, 4):le_uint()
    local kind = KINDS[number]
    local tree = root:add(sluice, tvb())
    dissect_header(tree, tvb(0, HEADER_BYTES))
    note_ignored(tree, number, flags, tokens)

    local code, detail, values = header_fault(length, number, flags, stream), nil, {}
    if kind and code ~= "frame_too_large" then
        local payload = tvb:len() > HEADER_BYTES and tvb(HEADER_BYTES):tvb()
            or ByteArray.new():tvb("empty")
        values, detail = dissect_payload(tree, payload, kind)
        if detail and not code then code = "malformed_payload" end
        show_task(tree, pinfo, number, stream, values)
    end
    if code then
        tree:add(fields["fault.code"], code):set_generated()
        if code == "malformed_payload" then
            tree:add(fields["fault.detail"], detail):set_generated()
        end
        tree:add_proto_expert_info(experts.refused,
            "Refused: " .. code .. (detail and ", " .. detail or ""))
    elseif number == TOKENS and tokens == 0 and length == 0 then
        tree:add_proto_expert_info(experts.useless, "Neither tokens nor content [K2]")
    elseif number == 0x06 then
        tree:add_proto_expert_info(experts.told, "ERROR " .. CODES[values.code])
    end

    local text = summary(number, stream, tokens, values, length)
    tree:append_text(": " .. text)
    pinfo.cols.info:append((tostring(pinfo.cols.info) == "" and "" or "; ") .. text)
    return tvb:len()
end

-- A length above the limit is refused from the header alone: nothing after it is a frame [F1].
local function frame_bytes(tvb, _, offset)
    local length = tvb(offset, 4):le_uint()
    if length > PAYLOAD_MAX then return math.max(HEADER_BYTES, tvb:len() - offset) end
    return HEADER_BYTES + length
end

function sluice.dissector(tvb, pinfo, tree)
    pinfo.cols.protocol = "Sluice"
    pinfo.cols.info:clear()
    dissect_tcp_pdus(tvb, tree, HEADER_BYTES, frame_bytes, dissect_frame, true)
    pinfo.cols.info:fence()
    return tvb:len()
end

DissectorTable.get("tls.alpn"):add("sluice/1", sluice)
DissectorTable.get("tls.port"):add_for_decode_as(sluice)
DissectorTable.get("tcp.port"):add_for_decode_as(sluice)
