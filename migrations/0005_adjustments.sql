-- Corrections: the adjustments that the parts of the chain `adjustment` hold, what each corrects, and
-- what became of rejected events. New tables only; their foreign keys lock part, chain and
-- rejected_event against writers for an instant.

-- One row per part of the adjustment chain, under the part's own key: a part's offsets count what it
-- corrects (rejected events, or sums that are priced anew).
create table adjustment (
    chain integer not null,
    part bigint not null,
    kind text not null constraint adjustment_kind check (kind in ('retry', 'drop', 'reprice')),
    made_at timestamptz not null,                -- whole milliseconds, since the part's hash has it
    made_by text not null,                       -- who took responsibility
    because text not null,                       -- why; empty where nobody said
    arguments text not null,                     -- what was asked, as JSON
    accepts_duplicates boolean not null,         -- events below the floor were taken, repeats or not
    primary key (chain, part),
    constraint adjustment_of_part foreign key (chain, part) references part (chain, number),
    constraint adjustment_drop_says_why check (kind <> 'drop' or because <> '')
);

-- Up to which part of each chain a re-pricing looked: what it reversed is the sum of those postings.
create table adjustment_bound (
    adjustment_chain integer not null,
    adjustment_part bigint not null,
    chain integer not null references chain,
    part bigint not null constraint adjustment_bound_part check (part >= 1),
    primary key (adjustment_chain, adjustment_part, chain),
    constraint adjustment_bound_of foreign key (adjustment_chain, adjustment_part)
        references adjustment
);

-- What became of a rejected event: at most one row each, and the event itself stays as it was kept.
create table rejection_resolved (
    chain integer not null,
    record_offset bigint not null,
    index integer not null,
    adjustment_chain integer not null,
    adjustment_part bigint not null,
    adjustment_offset bigint not null,           -- its place in the adjustment chain
    accepted bigint not null,                    -- of a retried one, what its events became
    duplicates bigint not null,
    ignored bigint not null,
    primary key (chain, record_offset, index),
    constraint rejection_resolved_event foreign key (chain, record_offset, index)
        references rejected_event,
    constraint rejection_resolved_by foreign key (adjustment_chain, adjustment_part)
        references adjustment
);
create index rejection_resolved_adjustment
    on rejection_resolved (adjustment_chain, adjustment_part);

do $$
declare
    name text;
begin
    foreach name in array array['adjustment', 'adjustment_bound', 'rejection_resolved'] loop
        execute format('create trigger %I before update or delete on %I for each row '
            'execute function refuse_change()', name || '_append_only', name);
        execute format('create trigger %I before truncate on %I for each statement '
            'execute function refuse_change()', name || '_no_truncate', name);
    end loop;
end $$;
