-- The ledger: sources and their chains, positions, parts, postings and their roll-ups, ids seen,
-- duplicates, rejected events, gaps, and what is in force. Locks nothing that exists: all is new.

-- What is in force ---------------------------------------------------------------------------------

create table price_book (
    version bigint generated always as identity primary key,
    content text not null,                       -- the whole book in its canonical CSV
    content_hash uuid not null,                  -- BLAKE3-128 of content
    origin text not null,                        -- the shipped book and files it was made of
    applied_at timestamptz not null default clock_timestamp()
);

create table source_config (
    version bigint generated always as identity primary key,
    content text not null,                       -- the sources in canonical JSON
    content_hash uuid not null,
    applied_at timestamptz not null default clock_timestamp()
);

-- Sets of files that a service applied at a start: such a set is never applied twice, so that a
-- restart undoes nothing that was decided since.
create table applied_at_start (
    kind text not null constraint applied_at_start_kind check (kind in ('prices', 'sources')),
    content_hash uuid not null,
    applied_at timestamptz not null default clock_timestamp(),
    primary key (kind, content_hash)
);

-- One row. Each batch holds it FOR SHARE, a change holds it exclusively.
create table in_force (
    one boolean primary key default true constraint in_force_one_row check (one),
    prices bigint references price_book,
    sources bigint references source_config
);
insert into in_force default values;

-- Sources, chains, positions -----------------------------------------------------------------------

create table source (
    id integer generated always as identity primary key,
    name text not null unique,
    topic text not null,
    watermark_at timestamptz,                    -- every record held by the log then is folded
    floor_at timestamptz,                        -- ids below are gone; null for a new source
    retired_at timestamptz
);

create table chain (
    id integer generated always as identity primary key,
    kind text not null constraint chain_kind check (kind in ('log', 'adjustment')),
    source integer references source,
    topic text not null,
    partition integer not null,
    incarnation integer not null constraint chain_incarnation check (incarnation >= 1),
    unique nulls not distinct (source, partition, incarnation),
    constraint chain_log_has_source check ((kind = 'log') = (source is not null))
);

create table source_position (
    chain integer primary key references chain,
    epoch bigint not null default 0,
    position bigint not null default -1,         -- the next offset to read; -1: not begun
    part bigint not null default 0,              -- the number of the last part
    part_end bigint not null default -1,         -- where the last part ended; -1: none
    state text not null default 'open'
        constraint source_position_state check (state in ('open', 'stopped', 'ended', 'retired')),
    owner uuid,                                  -- the process that claimed it last
    owner_pid integer,                           -- its backend, for a claim that must end it
    owner_started timestamptz,
    tail_offset bigint,                          -- the last folded record and its fingerprint
    tail_fingerprint uuid,
    anchor_offset bigint,                        -- a folded record that was read again and matched
    anchor_fingerprint uuid,
    updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

create table ingest_gap (
    id bigint generated always as identity primary key,
    chain integer not null references chain,
    part bigint not null,                        -- the chain's last part then; the next names it
    cause text not null constraint ingest_gap_cause check (cause in ('truncated', 'recreated')),
    position bigint not null,                    -- where the chain stood
    log_start bigint not null,                   -- what the log held when the gap was found
    log_end bigint not null,
    doubtful_from bigint,                        -- offsets folded after the last record that was
    doubtful_to bigint,                          -- verified to be the old log's; null: none
    detail text not null,
    found_at timestamptz not null default clock_timestamp(),
    accepted_at timestamptz,
    accepted_by text,
    constraint ingest_gap_accepted check ((accepted_at is null) = (accepted_by is null))
);
create unique index ingest_gap_open on ingest_gap (chain) where accepted_at is null;

-- Journal ------------------------------------------------------------------------------------------

create table batch (
    id bigint generated always as identity primary key,
    process uuid not null,
    committed_at timestamptz not null default clock_timestamp()
);

create table part (
    chain integer not null references chain,
    number bigint not null constraint part_number check (number >= 1),
    batch bigint not null references batch,
    epoch bigint not null,
    from_offset bigint not null,
    to_offset bigint not null,
    records bigint not null,
    accepted bigint not null,
    duplicates bigint not null,
    rejected bigint not null,
    ignored bigint not null,
    postings integer not null,
    hash_version smallint not null,
    fold_version smallint not null,
    floor_at timestamptz,
    prices bigint not null references price_book,
    sources bigint not null references source_config,
    skipped_from bigint,
    skipped_to bigint,
    previous_hash bytea not null constraint part_previous_hash check (length(previous_hash) = 32),
    hash bytea not null constraint part_hash check (length(hash) = 32),
    primary key (chain, number),
    constraint part_range check (from_offset <= to_offset)
);

create table series (
    key uuid primary key,                        -- BLAKE3-128 of the dimensions
    tenant text not null,
    app text not null,
    user_id text not null,
    session text not null,
    route text not null,
    provider text not null,
    model text not null
);

create table rate_set (
    key uuid primary key,                        -- BLAKE3-128 of the content
    provider text not null,
    priced_model text not null,
    book_model text not null,
    above_input_tokens bigint not null,
    requests numeric(38, 18),
    input_uncached_tokens numeric(38, 18),
    input_cache_read_tokens numeric(38, 18),
    input_cache_write_tokens numeric(38, 18),
    input_cache_write_1h_tokens numeric(38, 18),
    input_audio_tokens numeric(38, 18),
    output_text_tokens numeric(38, 18),
    output_reasoning_tokens numeric(38, 18),
    output_audio_tokens numeric(38, 18),
    images numeric(38, 18),
    -- For each meter in the order of the columns: the meter whose rate it is, empty where none.
    rate_of text[] not null constraint rate_set_rate_of check (array_length(rate_of, 1) = 10)
);

create table posting (
    chain integer not null,
    part bigint not null,
    series uuid not null,
    rate_set uuid not null,
    quarter timestamptz not null,                -- start of the quarter-hour the requests began in
    requests bigint not null,
    input_uncached_tokens bigint not null,
    input_cache_read_tokens bigint not null,
    input_cache_write_tokens bigint not null,
    input_cache_write_1h_tokens bigint not null,
    input_audio_tokens bigint not null,
    output_text_tokens bigint not null,
    output_reasoning_tokens bigint not null,
    output_audio_tokens bigint not null,
    images bigint not null,
    failed_requests bigint not null,
    unmeasured_requests bigint not null,
    priced_requests bigint not null,
    unpriced_requests bigint not null,
    -- Of the quantities that have a rate; null exactly where billable usage exists and none has one.
    amount numeric(38, 18),
    constraint posting_amount
        check ((amount is null) = (unpriced_requests > 0 and priced_requests = 0))
) partition by range (quarter);
create index posting_part on posting (chain, part);
create table posting_other partition of posting default;

create table rejected_event (
    chain integer not null references chain,
    record_offset bigint not null,
    index integer not null,                      -- of the event within its record, from 0
    part bigint not null,
    reason text not null,
    field text not null,
    detail text not null,
    record_at timestamptz not null,
    payload bytea not null constraint rejected_event_payload check (length(payload) <= 65536),
    payload_bytes bigint not null,
    payload_digest uuid not null,                -- BLAKE3-128 of the whole payload
    primary key (chain, record_offset, index)
);
create index rejected_event_part on rejected_event (chain, part);
-- The order in which they are listed.
create index rejected_event_newest
    on rejected_event (record_at desc, chain desc, record_offset desc, index desc);

create table duplicate (
    chain integer not null references chain,
    record_offset bigint not null,
    index integer not null,
    part bigint not null,
    identity uuid not null,
    first_chain integer not null,
    first_part bigint not null,
    primary key (chain, record_offset, index)
);
create index duplicate_part on duplicate (chain, part);

-- Ids of log lines: 48 bits of the event's millisecond, then 80 bits of its hash, so that a day is a
-- range of keys and neighbours in time are neighbours in the index. Aged out by dropping days.
create table event_seen (
    part bigint not null,
    identity uuid not null,
    chain integer not null,
    primary key (identity)
) partition by range (identity);
create table event_seen_other partition of event_seen default;

-- Roll-ups -----------------------------------------------------------------------------------------

-- Up to which part each chain is rolled up.
create table rollup_mark (
    chain integer primary key references chain,
    part bigint not null
);

create table rollup_quarter (
    quarter timestamptz not null,
    series uuid not null,
    rate_set uuid not null,
    requests numeric not null,
    input_uncached_tokens numeric not null,
    input_cache_read_tokens numeric not null,
    input_cache_write_tokens numeric not null,
    input_cache_write_1h_tokens numeric not null,
    input_audio_tokens numeric not null,
    output_text_tokens numeric not null,
    output_reasoning_tokens numeric not null,
    output_audio_tokens numeric not null,
    images numeric not null,
    failed_requests numeric not null,
    unmeasured_requests numeric not null,
    priced_requests numeric not null,
    unpriced_requests numeric not null,
    amount numeric,                              -- as in posting
    primary key (quarter, series, rate_set)
) with (fillfactor = 70);

create table rollup_day (
    day timestamptz not null,                    -- midnight of UTC
    series uuid not null,
    rate_set uuid not null,
    requests numeric not null,
    input_uncached_tokens numeric not null,
    input_cache_read_tokens numeric not null,
    input_cache_write_tokens numeric not null,
    input_cache_write_1h_tokens numeric not null,
    input_audio_tokens numeric not null,
    output_text_tokens numeric not null,
    output_reasoning_tokens numeric not null,
    output_audio_tokens numeric not null,
    images numeric not null,
    failed_requests numeric not null,
    unmeasured_requests numeric not null,
    priced_requests numeric not null,
    unpriced_requests numeric not null,
    amount numeric,
    primary key (day, series, rate_set)
) with (fillfactor = 70);

-- Append-only --------------------------------------------------------------------------------------

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % is refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation',
              hint = 'corrections are new postings that name what they correct';
end $$;

-- Row triggers of a partitioned table are cloned to its partitions; TRUNCATE triggers are not, so
-- each partition gets its own where it is made.
create trigger posting_append_only before update or delete on posting
    for each row execute function refuse_change();
create trigger posting_no_truncate before truncate on posting
    for each statement execute function refuse_change();
create trigger posting_other_no_truncate before truncate on posting_other
    for each statement execute function refuse_change();

create function make_append_only(table_name text) returns void language plpgsql as $$
begin
    execute format('create trigger %I before update or delete on %I for each row '
        'execute function refuse_change()', table_name || '_append_only', table_name);
    execute format('create trigger %I before truncate on %I for each statement '
        'execute function refuse_change()', table_name || '_no_truncate', table_name);
end $$;
select make_append_only(name) from unnest(array[
    'price_book', 'source_config', 'applied_at_start', 'batch', 'part', 'series', 'rate_set',
    'rejected_event', 'duplicate'
]) as name;
drop function make_append_only(text);

-- Partitions ---------------------------------------------------------------------------------------

-- Makes the month's partition of posting that holds this instant, unless it exists. Runs as its
-- owner, since the services own nothing. Attaching locks only the default partition.
create function ensure_posting_month(instant timestamptz) returns void
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    month timestamp := date_trunc('month', instant at time zone 'UTC');
    starts timestamptz := month at time zone 'UTC';
    ends timestamptz := (month + interval '1 month') at time zone 'UTC';
    name text := 'posting_' || to_char(month, 'YYYYMM');
begin
    perform pg_advisory_xact_lock(hashtext('tollbook.partitions'));
    if to_regclass(name) is not null
       or exists (select from posting_other where quarter >= starts and quarter < ends) then
        return;
    end if;
    execute format('create table %I (like posting including defaults including constraints)', name);
    execute format('create trigger %I before truncate on %I for each statement '
        'execute function refuse_change()', name || '_no_truncate', name);
    execute format('alter table posting attach partition %I for values from (%L) to (%L)',
        name, starts, ends);
end $$;

-- Makes the partition of event_seen for the day that begins at `from_identity`, unless it exists.
create function ensure_event_seen_day(day date, from_identity uuid, to_identity uuid) returns void
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    name text := 'event_seen_' || to_char(day, 'YYYYMMDD');
begin
    perform pg_advisory_xact_lock(hashtext('tollbook.partitions'));
    if to_regclass(name) is not null
       or exists (select from event_seen_other
                  where identity >= from_identity and identity < to_identity) then
        return;
    end if;
    execute format('create table %I (like event_seen including defaults including constraints)',
        name);
    execute format('alter table event_seen attach partition %I for values from (%L) to (%L)',
        name, from_identity, to_identity);
end $$;

-- Drops the days of event_seen before this day, and none that a floor may still need, whatever the
-- caller says. Does nothing where partitions are being made.
create function drop_event_seen_before(day date) returns integer
    language plpgsql security definer set search_path = public, pg_temp as $$
declare
    name text;
    dropped integer := 0;
    least_floor timestamptz;
begin
    if not pg_try_advisory_xact_lock(hashtext('tollbook.partitions')) then
        return 0;
    end if;
    select min(s.floor_at) into least_floor from source s where s.retired_at is null;
    day := least(day, (least_floor at time zone 'UTC')::date - 1);
    for name in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'event_seen'::regclass and c.relname ~ '^event_seen_\d{8}$'
          and right(c.relname, 8) < to_char(day, 'YYYYMMDD')
    loop
        execute format('drop table %I', name);
        dropped := dropped + 1;
    end loop;
    return dropped;
end $$;
revoke all on function ensure_posting_month(timestamptz) from public;
revoke all on function ensure_event_seen_day(date, uuid, uuid) from public;
revoke all on function drop_event_seen_before(date) from public;

-- Tenants ------------------------------------------------------------------------------------------

-- Readers see the tenant that they name by `set_config('tollbook.tenant', …, true)`, or all with '*'
-- (the operator); none where it is unset.
alter table series enable row level security, force row level security;
create policy series_of_tenant on series using (
    current_setting('tollbook.tenant', true) in ('*', tenant)
);
create policy series_written on series for insert with check (true);
