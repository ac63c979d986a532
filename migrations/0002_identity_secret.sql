-- The secret under which identities of log lines are hashed, made once. Locks nothing that exists.

create table identity_secret (
    one boolean primary key default true constraint identity_secret_one_row check (one),
    -- 244 random bits: two version 4 UUIDs.
    secret bytea not null default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
        constraint identity_secret_length check (length(secret) = 32)
);
insert into identity_secret default values;

-- Under another secret no id that was taken would be found again.
create trigger identity_secret_append_only before update or delete on identity_secret
    for each row execute function refuse_change();
create trigger identity_secret_no_truncate before truncate on identity_secret
    for each statement execute function refuse_change();
