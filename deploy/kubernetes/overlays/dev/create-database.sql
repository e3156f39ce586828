-- After the roles, at the server's first start.
create database max_two owner max_two_owner;
