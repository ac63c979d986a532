-- The lists that a price book in force is made of: the shipped book, lists that were imported, and the
-- files of the configuration, one over the other. Locks nothing that exists: all is new.

create table price_layer (
    id bigint generated always as identity primary key,
    kind text not null constraint price_layer_kind check (kind in ('shipped', 'import', 'file')),
    name text not null,                          -- the file's name, for people
    layout text not null,                        -- of the file as it was read
    holds_from timestamptz,                      -- null: from the beginning of time
    content text not null,                       -- the list in its canonical CSV
    content_hash uuid not null,                  -- BLAKE3-128 of content
    added_at timestamptz not null default clock_timestamp()
);

-- A version that has no rows here was stored before lists were kept apart.
create table price_book_layer (
    version bigint not null references price_book,
    place integer not null constraint price_book_layer_place check (place >= 1),  -- 1: the lowest
    layer bigint not null references price_layer,
    primary key (version, place)
);

create trigger price_layer_append_only before update or delete on price_layer
    for each row execute function refuse_change();
create trigger price_layer_no_truncate before truncate on price_layer
    for each statement execute function refuse_change();
create trigger price_book_layer_append_only before update or delete on price_book_layer
    for each row execute function refuse_change();
create trigger price_book_layer_no_truncate before truncate on price_book_layer
    for each statement execute function refuse_change();
