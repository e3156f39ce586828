-- Users that are spread over nodes become visible on one node after another.

comment on column users.updated_at is 'When the round that set the points began; the same for all users, except while a round commits on the nodes of a Citus cluster.';
