set role noshi_owner;
set local check_function_bodies = off;

-- The kinds that there are. A newer version adds its own; the owner may add one too.
create table noshi.kind (
    name       text primary key check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    -- For trying out and measuring: producers may not ask for it, since it waits in the lanes of others and parks as it is told.
    for_tests  boolean not null default false,
    -- Of a program with jobs of its own, as its `migrate up` told them: see `noshi.declare_kinds`.
    own            boolean not null default false,
    for_producers  boolean not null default true,
    id_field       text check (id_field ~ '^[a-z][a-z0-9_]{0,62}$'),
    fields         jsonb not null default '[]' check (octet_length(fields::text) <= 65536)
);

-- The server's own list of zones is read from hundreds of files each time, and what is in none of them the server takes for a rule.
create table noshi.zone (name text primary key);

-- DRAWN by tests/it/requests.rs from src/basics/text.rs and src/basics/requests.rs
-- Why it is no id of at most so many bytes; null where it is one. ASCII that can be seen is the usual case.
create function noshi.id_fault(p_id text, p_max integer) returns text language sql immutable parallel safe
as $$
    select case
        when $1 collate "C" ~ '^[!-~]+$' and octet_length($1) <= $2 and $1 not in ('.', '..') then null
        when $1 = '' then 'this must not be empty'
        when octet_length($1) > $2 then format('this has %s bytes; at most %s fit', octet_length($1), $2)
        when $1 collate "C" ~ '^[\u0009-\u000d\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028-\u2029\u202f\u205f\u3000]|[\u0009-\u000d\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028-\u2029\u202f\u205f\u3000]$' then 'this begins or ends with a space'
        when $1 collate "C" ~ '[\u0001-\u001f\u007f-\u00a0\u00ad\u034f\u0378-\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0590\u05ca-\u05cf\u05eb-\u05ee\u05f5-\u0605\u061c\u06dd\u070e-\u070f\u074b-\u074c\u07b2-\u07bf\u07fb-\u07fc\u082e-\u082f\u083f\u085c-\u085d\u085f\u086b-\u086f\u0890-\u0896\u08e2\u0984\u098d-\u098e\u0991-\u0992\u09a9\u09b1\u09b3-\u09b5\u09ba-\u09bb\u09c5-\u09c6\u09c9-\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4-\u09e5\u09ff-\u0a00\u0a04\u0a0b-\u0a0e\u0a11-\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a-\u0a3b\u0a3d\u0a43-\u0a46\u0a49-\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e\u0a92\u0aa9\u0ab1\u0ab4\u0aba-\u0abb\u0ac6\u0aca\u0ace-\u0acf\u0ad1-\u0adf\u0ae4-\u0ae5\u0af2-\u0af8\u0b00\u0b04\u0b0d-\u0b0e\u0b11-\u0b12\u0b29\u0b31\u0b34\u0b3a-\u0b3b\u0b45-\u0b46\u0b49-\u0b4a\u0b4e-\u0b52\u0b58-\u0b5b\u0b5e\u0b64-\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9\u0bce-\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a-\u0c3b\u0c45\u0c49\u0c4e-\u0c54\u0c57\u0c5b\u0c5e-\u0c5f\u0c64-\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4\u0cba-\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdb\u0cdf\u0ce4-\u0ce5\u0cf0\u0cf4-\u0cff\u0d0d\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64-\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe-\u0dbf\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0-\u0df1\u0df5-\u0e00\u0e3b-\u0e3e\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe-\u0ebf\u0ec5\u0ec7\u0ecf\u0eda-\u0edb\u0ee0-\u0eff\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce-\u10cf\u115f-\u1160\u1249\u124e-\u124f\u1257\u1259\u125e-\u125f\u1289\u128e-\u128f\u12b1\u12b6-\u12b7\u12bf\u12c1\u12c6-\u12c7\u12d7\u1311\u1316-\u1317\u135b-\u135c\u137d-\u137f\u139a-\u139f\u13f6-\u13f7\u13fe-\u13ff\u1680\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771\u1774-\u177f\u17b4-\u17b5\u17de-\u17df\u17ea-\u17ef\u17fa-\u17ff\u180b-\u180f\u181a-\u181f\u1879-\u187f\u18ab-\u18af\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e-\u196f\u1975-\u197f\u19ac-\u19af\u19ca-\u19cf\u19db-\u19dd\u1a1c-\u1a1d\u1a5f\u1a7d-\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae-\u1aaf\u1af1-\u1aff\u1b4d\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c8b-\u1c8f\u1cbb-\u1cbc\u1cc8-\u1ccf\u1cfb-\u1cff\u1f16-\u1f17\u1f1e-\u1f1f\u1f46-\u1f47\u1f4e-\u1f4f\u1f58\u1f5a\u1f5c\u1f5e\u1f7e-\u1f7f\u1fb5\u1fc5\u1fd4-\u1fd5\u1fdc\u1ff0-\u1ff1\u1ff5\u1fff-\u200f\u2028-\u202f\u205f-\u206f\u2072-\u2073\u20c5-\u20cf\u20f1-\u20ff\u218c-\u218f\u242a-\u243f\u244b-\u245f\u2800\u2b74-\u2b75\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e-\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e5f\u2e64-\u2e7f\u2e9a\u2ef4-\u2eff\u2fd6-\u2fef\u3000\u3040\u3097-\u3098\u3100-\u3104\u3130\u3164\u318f\u31e6-\u31ee\u321f\ua48d-\ua48f\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7de-\ua7e1\ua7e3-\ua7f0\ua82d-\ua82f\ua83a-\ua83f\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff\uaa37-\uaa3f\uaa4e-\uaa4f\uaa5a-\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07-\uab08\uab0f-\uab10\uab17-\uab1f\uab27\uab2f\uab6e-\uab6f\uabee-\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e-\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f\ufb42\ufb45\ufdd0-\ufdef\ufe00-\ufe0f\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffa0\uffbf-\uffc1\uffc8-\uffc9\uffd0-\uffd1\uffd8-\uffd9\uffdd-\uffdf\uffe7\uffef-\uffff\U0001000c\U00010027\U0001003b\U0001003e\U0001004e-\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7\U000103d6-\U000103ff\U0001049e-\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105bf\U000105f4-\U000105ff\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1\U000107c0-\U000107ff\U00010806-\U00010807\U00010809\U00010836\U00010839-\U0001083b\U0001083d-\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U0001095a-\U0001097f\U000109b8-\U000109bb\U000109d0-\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18\U00010a36-\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38\U00010b56-\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9\U00010d28-\U00010d2f\U00010d3a-\U00010d3f\U00010d66-\U00010d68\U00010d86-\U00010d8d\U00010d90-\U00010e5f\U00010e7f\U00010eaa\U00010eae-\U00010eaf\U00010eb2-\U00010ec1\U00010ec8\U00010eef\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f\U000111e0\U000111f5-\U000111ff\U00011212\U00011242-\U0001127f\U00011287\U00011289\U0001128e\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304\U0001130d-\U0001130e\U00011311-\U00011312\U00011329\U00011331\U00011334\U0001133a\U00011345-\U00011346\U00011349-\U0001134a\U0001134e-\U0001134f\U00011351-\U00011356\U00011358-\U0001135c\U00011364-\U00011365\U0001136d-\U0001136f\U00011375-\U0001137f\U0001138a\U0001138c-\U0001138d\U0001138f\U000113b6\U000113c1\U000113c3-\U000113c4\U000113c6\U000113cb\U000113d6\U000113d9-\U000113e0\U000113e3-\U000113ff\U0001145c\U00011462-\U0001147f\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6-\U000115b7\U000115de-\U000115ff\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf\U000116ca-\U000116cf\U000116e4-\U000116ff\U0001171b-\U0001171c\U0001172c-\U0001172f\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907-\U00011908\U0001190a-\U0001190b\U00011914\U00011917\U00011936\U00011939-\U0001193a\U00011947-\U0001194f\U0001195a-\U0001199f\U000119a8-\U000119a9\U000119d8-\U000119d9\U000119e5-\U000119ff\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011aff\U00011b0b-\U00011b5f\U00011b68-\U00011bbf\U00011be2-\U00011bef\U00011bfa-\U00011bff\U00011c09\U00011c37\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90-\U00011c91\U00011ca8\U00011cb7-\U00011cff\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f\U00011daa-\U00011daf\U00011ddc-\U00011ddf\U00011dea-\U00011def\U00011df2-\U00011edf\U00011ef9-\U00011eff\U00011f11\U00011f3b-\U00011f3d\U00011f5b-\U00011faf\U00011fb1-\U00011fbf\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U00012544-\U0001254f\U00012687-\U00012f8f\U00012ff3-\U00012fff\U00013430-\U0001343f\U00013441-\U00013442\U00013456-\U0001345f\U000143fb-\U000143ff\U00014647-\U000160ff\U0001613a-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d\U00016abf\U00016aca-\U00016acf\U00016aee-\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016d3f\U00016d7a-\U00016e3f\U00016e9b-\U00016e9f\U00016eb9-\U00016eba\U00016ed4-\U00016eff\U00016f4b-\U00016f4e\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe4-\U00016fef\U00016ff7-\U00016fff\U00018cdb-\U00018cfe\U00018d21-\U00018d7f\U00018df3-\U00018dff\U00019192-\U0001919f\U000191d3-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b129-\U0001b131\U0001b133-\U0001b14f\U0001b153-\U0001b154\U0001b156-\U0001b163\U0001b169-\U0001b16f\U0001b2fc-\U0001bbff\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a-\U0001bc9b\U0001bca0-\U0001cbff\U0001ccfd-\U0001ccff\U0001ceb4-\U0001ceb9\U0001ced1\U0001ced5-\U0001cedc\U0001cefe-\U0001ceff\U0001cf2e-\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff\U0001d0f6-\U0001d0ff\U0001d159\U0001d173-\U0001d17a\U0001d246-\U0001d24f\U0001d282-\U0001d2bf\U0001d2d4-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455\U0001d49d\U0001d4a0-\U0001d4a1\U0001d4a3-\U0001d4a4\U0001d4a7-\U0001d4a8\U0001d4ad\U0001d4ba\U0001d4bc\U0001d4c4\U0001d506\U0001d50b-\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a7\U0001d7cc-\U0001d7cd\U0001da8c-\U0001da9a\U0001daa0\U0001dab0-\U0001daff\U0001db1d-\U0001deff\U0001df82-\U0001df8f\U0001df97-\U0001dfcc\U0001e007\U0001e019-\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e02f\U0001e06e-\U0001e08e\U0001e090-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e-\U0001e13f\U0001e14a-\U0001e14d\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e4cf\U0001e4fa-\U0001e5cf\U0001e5fb-\U0001e5fe\U0001e600-\U0001e6bf\U0001e6df\U0001e6f6-\U0001e6fd\U0001e700-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5-\U0001e8c6\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25-\U0001ee26\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55-\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c\U0001ee5e\U0001ee60\U0001ee63\U0001ee65-\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af-\U0001f0b0\U0001f0c0\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1af-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6da-\U0001f6db\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f7dc-\U0001f7df\U0001f7ec-\U0001f7ef\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8af\U0001f8bc-\U0001f8bf\U0001f8c2-\U0001f8cf\U0001f8d9-\U0001f8ff\U0001fa58-\U0001fa5f\U0001fa6e-\U0001fa6f\U0001fa7d-\U0001fa7f\U0001fac7\U0001fac9-\U0001facb\U0001fade\U0001faec-\U0001faee\U0001fafb-\U0001faff\U0001fb93\U0001fbfb-\U0001ffff\U0002a6e0-\U0002a6ff\U0002b81f\U0002ceae-\U0002ceaf\U0002ebe1-\U0002ebef\U0002ee5e-\U0002f7ff\U0002fa1e-\U0002ffff\U0003134b-\U0003134f\U0003347a-\U0003cfff\U0003fc40-\U0010ffff]' then format('this holds a character that cannot be seen, U+%s; ids hold no control characters, and none that cannot be seen or that mean nothing',
            (select lpad(h, greatest(4, length(h)), '0') from upper(to_hex(ascii(substring($1 collate "C" from '[\u0001-\u001f\u007f-\u00a0\u00ad\u034f\u0378-\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0590\u05ca-\u05cf\u05eb-\u05ee\u05f5-\u0605\u061c\u06dd\u070e-\u070f\u074b-\u074c\u07b2-\u07bf\u07fb-\u07fc\u082e-\u082f\u083f\u085c-\u085d\u085f\u086b-\u086f\u0890-\u0896\u08e2\u0984\u098d-\u098e\u0991-\u0992\u09a9\u09b1\u09b3-\u09b5\u09ba-\u09bb\u09c5-\u09c6\u09c9-\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4-\u09e5\u09ff-\u0a00\u0a04\u0a0b-\u0a0e\u0a11-\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a-\u0a3b\u0a3d\u0a43-\u0a46\u0a49-\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e\u0a92\u0aa9\u0ab1\u0ab4\u0aba-\u0abb\u0ac6\u0aca\u0ace-\u0acf\u0ad1-\u0adf\u0ae4-\u0ae5\u0af2-\u0af8\u0b00\u0b04\u0b0d-\u0b0e\u0b11-\u0b12\u0b29\u0b31\u0b34\u0b3a-\u0b3b\u0b45-\u0b46\u0b49-\u0b4a\u0b4e-\u0b52\u0b58-\u0b5b\u0b5e\u0b64-\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9\u0bce-\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a-\u0c3b\u0c45\u0c49\u0c4e-\u0c54\u0c57\u0c5b\u0c5e-\u0c5f\u0c64-\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4\u0cba-\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdb\u0cdf\u0ce4-\u0ce5\u0cf0\u0cf4-\u0cff\u0d0d\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64-\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe-\u0dbf\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0-\u0df1\u0df5-\u0e00\u0e3b-\u0e3e\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe-\u0ebf\u0ec5\u0ec7\u0ecf\u0eda-\u0edb\u0ee0-\u0eff\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce-\u10cf\u115f-\u1160\u1249\u124e-\u124f\u1257\u1259\u125e-\u125f\u1289\u128e-\u128f\u12b1\u12b6-\u12b7\u12bf\u12c1\u12c6-\u12c7\u12d7\u1311\u1316-\u1317\u135b-\u135c\u137d-\u137f\u139a-\u139f\u13f6-\u13f7\u13fe-\u13ff\u1680\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771\u1774-\u177f\u17b4-\u17b5\u17de-\u17df\u17ea-\u17ef\u17fa-\u17ff\u180b-\u180f\u181a-\u181f\u1879-\u187f\u18ab-\u18af\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e-\u196f\u1975-\u197f\u19ac-\u19af\u19ca-\u19cf\u19db-\u19dd\u1a1c-\u1a1d\u1a5f\u1a7d-\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae-\u1aaf\u1af1-\u1aff\u1b4d\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c8b-\u1c8f\u1cbb-\u1cbc\u1cc8-\u1ccf\u1cfb-\u1cff\u1f16-\u1f17\u1f1e-\u1f1f\u1f46-\u1f47\u1f4e-\u1f4f\u1f58\u1f5a\u1f5c\u1f5e\u1f7e-\u1f7f\u1fb5\u1fc5\u1fd4-\u1fd5\u1fdc\u1ff0-\u1ff1\u1ff5\u1fff-\u200f\u2028-\u202f\u205f-\u206f\u2072-\u2073\u20c5-\u20cf\u20f1-\u20ff\u218c-\u218f\u242a-\u243f\u244b-\u245f\u2800\u2b74-\u2b75\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e-\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e5f\u2e64-\u2e7f\u2e9a\u2ef4-\u2eff\u2fd6-\u2fef\u3000\u3040\u3097-\u3098\u3100-\u3104\u3130\u3164\u318f\u31e6-\u31ee\u321f\ua48d-\ua48f\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7de-\ua7e1\ua7e3-\ua7f0\ua82d-\ua82f\ua83a-\ua83f\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff\uaa37-\uaa3f\uaa4e-\uaa4f\uaa5a-\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07-\uab08\uab0f-\uab10\uab17-\uab1f\uab27\uab2f\uab6e-\uab6f\uabee-\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e-\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f\ufb42\ufb45\ufdd0-\ufdef\ufe00-\ufe0f\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffa0\uffbf-\uffc1\uffc8-\uffc9\uffd0-\uffd1\uffd8-\uffd9\uffdd-\uffdf\uffe7\uffef-\uffff\U0001000c\U00010027\U0001003b\U0001003e\U0001004e-\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7\U000103d6-\U000103ff\U0001049e-\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105bf\U000105f4-\U000105ff\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1\U000107c0-\U000107ff\U00010806-\U00010807\U00010809\U00010836\U00010839-\U0001083b\U0001083d-\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U0001095a-\U0001097f\U000109b8-\U000109bb\U000109d0-\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18\U00010a36-\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38\U00010b56-\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9\U00010d28-\U00010d2f\U00010d3a-\U00010d3f\U00010d66-\U00010d68\U00010d86-\U00010d8d\U00010d90-\U00010e5f\U00010e7f\U00010eaa\U00010eae-\U00010eaf\U00010eb2-\U00010ec1\U00010ec8\U00010eef\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f\U000111e0\U000111f5-\U000111ff\U00011212\U00011242-\U0001127f\U00011287\U00011289\U0001128e\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304\U0001130d-\U0001130e\U00011311-\U00011312\U00011329\U00011331\U00011334\U0001133a\U00011345-\U00011346\U00011349-\U0001134a\U0001134e-\U0001134f\U00011351-\U00011356\U00011358-\U0001135c\U00011364-\U00011365\U0001136d-\U0001136f\U00011375-\U0001137f\U0001138a\U0001138c-\U0001138d\U0001138f\U000113b6\U000113c1\U000113c3-\U000113c4\U000113c6\U000113cb\U000113d6\U000113d9-\U000113e0\U000113e3-\U000113ff\U0001145c\U00011462-\U0001147f\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6-\U000115b7\U000115de-\U000115ff\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf\U000116ca-\U000116cf\U000116e4-\U000116ff\U0001171b-\U0001171c\U0001172c-\U0001172f\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907-\U00011908\U0001190a-\U0001190b\U00011914\U00011917\U00011936\U00011939-\U0001193a\U00011947-\U0001194f\U0001195a-\U0001199f\U000119a8-\U000119a9\U000119d8-\U000119d9\U000119e5-\U000119ff\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011aff\U00011b0b-\U00011b5f\U00011b68-\U00011bbf\U00011be2-\U00011bef\U00011bfa-\U00011bff\U00011c09\U00011c37\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90-\U00011c91\U00011ca8\U00011cb7-\U00011cff\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f\U00011daa-\U00011daf\U00011ddc-\U00011ddf\U00011dea-\U00011def\U00011df2-\U00011edf\U00011ef9-\U00011eff\U00011f11\U00011f3b-\U00011f3d\U00011f5b-\U00011faf\U00011fb1-\U00011fbf\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U00012544-\U0001254f\U00012687-\U00012f8f\U00012ff3-\U00012fff\U00013430-\U0001343f\U00013441-\U00013442\U00013456-\U0001345f\U000143fb-\U000143ff\U00014647-\U000160ff\U0001613a-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d\U00016abf\U00016aca-\U00016acf\U00016aee-\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016d3f\U00016d7a-\U00016e3f\U00016e9b-\U00016e9f\U00016eb9-\U00016eba\U00016ed4-\U00016eff\U00016f4b-\U00016f4e\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe4-\U00016fef\U00016ff7-\U00016fff\U00018cdb-\U00018cfe\U00018d21-\U00018d7f\U00018df3-\U00018dff\U00019192-\U0001919f\U000191d3-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b129-\U0001b131\U0001b133-\U0001b14f\U0001b153-\U0001b154\U0001b156-\U0001b163\U0001b169-\U0001b16f\U0001b2fc-\U0001bbff\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a-\U0001bc9b\U0001bca0-\U0001cbff\U0001ccfd-\U0001ccff\U0001ceb4-\U0001ceb9\U0001ced1\U0001ced5-\U0001cedc\U0001cefe-\U0001ceff\U0001cf2e-\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff\U0001d0f6-\U0001d0ff\U0001d159\U0001d173-\U0001d17a\U0001d246-\U0001d24f\U0001d282-\U0001d2bf\U0001d2d4-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455\U0001d49d\U0001d4a0-\U0001d4a1\U0001d4a3-\U0001d4a4\U0001d4a7-\U0001d4a8\U0001d4ad\U0001d4ba\U0001d4bc\U0001d4c4\U0001d506\U0001d50b-\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a7\U0001d7cc-\U0001d7cd\U0001da8c-\U0001da9a\U0001daa0\U0001dab0-\U0001daff\U0001db1d-\U0001deff\U0001df82-\U0001df8f\U0001df97-\U0001dfcc\U0001e007\U0001e019-\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e02f\U0001e06e-\U0001e08e\U0001e090-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e-\U0001e13f\U0001e14a-\U0001e14d\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e4cf\U0001e4fa-\U0001e5cf\U0001e5fb-\U0001e5fe\U0001e600-\U0001e6bf\U0001e6df\U0001e6f6-\U0001e6fd\U0001e700-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5-\U0001e8c6\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25-\U0001ee26\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55-\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c\U0001ee5e\U0001ee60\U0001ee63\U0001ee65-\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af-\U0001f0b0\U0001f0c0\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1af-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6da-\U0001f6db\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f7dc-\U0001f7df\U0001f7ec-\U0001f7ef\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8af\U0001f8bc-\U0001f8bf\U0001f8c2-\U0001f8cf\U0001f8d9-\U0001f8ff\U0001fa58-\U0001fa5f\U0001fa6e-\U0001fa6f\U0001fa7d-\U0001fa7f\U0001fac7\U0001fac9-\U0001facb\U0001fade\U0001faec-\U0001faee\U0001fafb-\U0001faff\U0001fb93\U0001fbfb-\U0001ffff\U0002a6e0-\U0002a6ff\U0002b81f\U0002ceae-\U0002ceaf\U0002ebe1-\U0002ebef\U0002ee5e-\U0002f7ff\U0002fa1e-\U0002ffff\U0003134b-\U0003134f\U0003347a-\U0003cfff\U0003fc40-\U0010ffff]')))) h))
        when $1 is not nfc normalized then 'this is not in the composed form (Unicode NFC), so that two ids would look alike; write it composed'
        when $1 in ('.', '..') then 'an id is not . or ..: this cannot be part of an address' end
$$;
-- The same of a text that is shown, such as a person's name.
create function noshi.text_fault(p_text text, p_max integer) returns text language sql immutable parallel safe
as $$
    select case
        when octet_length($1) > $2 then format('this has %s bytes; at most %s fit', octet_length($1), $2)
        when $1 collate "C" ~ '[\u0001-\u001f\u007f-\u009f\u061c\u200e-\u200f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufeff\ufffc-\uffff\U0001fffe-\U0001ffff\U0002fffe-\U0002ffff\U0003fffe-\U0003ffff\U0004fffe-\U0004ffff\U0005fffe-\U0005ffff\U0006fffe-\U0006ffff\U0007fffe-\U0007ffff\U0008fffe-\U0008ffff\U0009fffe-\U0009ffff\U000afffe-\U000affff\U000bfffe-\U000bffff\U000cfffe-\U000cffff\U000dfffe-\U000dffff\U000efffe-\U000effff\U000ffffe-\U000fffff\U0010fffe-\U0010ffff]' then format('this holds a control character, such as a tab, or one that no text may hold: U+%s',
            (select lpad(h, greatest(4, length(h)), '0') from upper(to_hex(ascii(substring($1 collate "C" from '[\u0001-\u001f\u007f-\u009f\u061c\u200e-\u200f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufeff\ufffc-\uffff\U0001fffe-\U0001ffff\U0002fffe-\U0002ffff\U0003fffe-\U0003ffff\U0004fffe-\U0004ffff\U0005fffe-\U0005ffff\U0006fffe-\U0006ffff\U0007fffe-\U0007ffff\U0008fffe-\U0008ffff\U0009fffe-\U0009ffff\U000afffe-\U000affff\U000bfffe-\U000bffff\U000cfffe-\U000cffff\U000dfffe-\U000dffff\U000efffe-\U000effff\U000ffffe-\U000fffff\U0010fffe-\U0010ffff]')))) h))
        when $1 collate "C" !~ '[^ \u0001-\u001f\u007f-\u00a0\u00ad\u034f\u0378-\u0379\u0380-\u0383\u038b\u038d\u03a2\u0530\u0557\u0590\u05ca-\u05cf\u05eb-\u05ee\u05f5-\u0605\u061c\u06dd\u070e-\u070f\u074b-\u074c\u07b2-\u07bf\u07fb-\u07fc\u082e-\u082f\u083f\u085c-\u085d\u085f\u086b-\u086f\u0890-\u0896\u08e2\u0984\u098d-\u098e\u0991-\u0992\u09a9\u09b1\u09b3-\u09b5\u09ba-\u09bb\u09c5-\u09c6\u09c9-\u09ca\u09cf-\u09d6\u09d8-\u09db\u09de\u09e4-\u09e5\u09ff-\u0a00\u0a04\u0a0b-\u0a0e\u0a11-\u0a12\u0a29\u0a31\u0a34\u0a37\u0a3a-\u0a3b\u0a3d\u0a43-\u0a46\u0a49-\u0a4a\u0a4e-\u0a50\u0a52-\u0a58\u0a5d\u0a5f-\u0a65\u0a77-\u0a80\u0a84\u0a8e\u0a92\u0aa9\u0ab1\u0ab4\u0aba-\u0abb\u0ac6\u0aca\u0ace-\u0acf\u0ad1-\u0adf\u0ae4-\u0ae5\u0af2-\u0af8\u0b00\u0b04\u0b0d-\u0b0e\u0b11-\u0b12\u0b29\u0b31\u0b34\u0b3a-\u0b3b\u0b45-\u0b46\u0b49-\u0b4a\u0b4e-\u0b52\u0b58-\u0b5b\u0b5e\u0b64-\u0b65\u0b78-\u0b81\u0b84\u0b8b-\u0b8d\u0b91\u0b96-\u0b98\u0b9b\u0b9d\u0ba0-\u0ba2\u0ba5-\u0ba7\u0bab-\u0bad\u0bba-\u0bbd\u0bc3-\u0bc5\u0bc9\u0bce-\u0bcf\u0bd1-\u0bd6\u0bd8-\u0be5\u0bfb-\u0bff\u0c0d\u0c11\u0c29\u0c3a-\u0c3b\u0c45\u0c49\u0c4e-\u0c54\u0c57\u0c5b\u0c5e-\u0c5f\u0c64-\u0c65\u0c70-\u0c76\u0c8d\u0c91\u0ca9\u0cb4\u0cba-\u0cbb\u0cc5\u0cc9\u0cce-\u0cd4\u0cd7-\u0cdb\u0cdf\u0ce4-\u0ce5\u0cf0\u0cf4-\u0cff\u0d0d\u0d11\u0d45\u0d49\u0d50-\u0d53\u0d64-\u0d65\u0d80\u0d84\u0d97-\u0d99\u0db2\u0dbc\u0dbe-\u0dbf\u0dc7-\u0dc9\u0dcb-\u0dce\u0dd5\u0dd7\u0de0-\u0de5\u0df0-\u0df1\u0df5-\u0e00\u0e3b-\u0e3e\u0e5c-\u0e80\u0e83\u0e85\u0e8b\u0ea4\u0ea6\u0ebe-\u0ebf\u0ec5\u0ec7\u0ecf\u0eda-\u0edb\u0ee0-\u0eff\u0f48\u0f6d-\u0f70\u0f98\u0fbd\u0fcd\u0fdb-\u0fff\u10c6\u10c8-\u10cc\u10ce-\u10cf\u115f-\u1160\u1249\u124e-\u124f\u1257\u1259\u125e-\u125f\u1289\u128e-\u128f\u12b1\u12b6-\u12b7\u12bf\u12c1\u12c6-\u12c7\u12d7\u1311\u1316-\u1317\u135b-\u135c\u137d-\u137f\u139a-\u139f\u13f6-\u13f7\u13fe-\u13ff\u1680\u169d-\u169f\u16f9-\u16ff\u1716-\u171e\u1737-\u173f\u1754-\u175f\u176d\u1771\u1774-\u177f\u17b4-\u17b5\u17de-\u17df\u17ea-\u17ef\u17fa-\u17ff\u180b-\u180f\u181a-\u181f\u1879-\u187f\u18ab-\u18af\u18f6-\u18ff\u191f\u192c-\u192f\u193c-\u193f\u1941-\u1943\u196e-\u196f\u1975-\u197f\u19ac-\u19af\u19ca-\u19cf\u19db-\u19dd\u1a1c-\u1a1d\u1a5f\u1a7d-\u1a7e\u1a8a-\u1a8f\u1a9a-\u1a9f\u1aae-\u1aaf\u1af1-\u1aff\u1b4d\u1bf4-\u1bfb\u1c38-\u1c3a\u1c4a-\u1c4c\u1c8b-\u1c8f\u1cbb-\u1cbc\u1cc8-\u1ccf\u1cfb-\u1cff\u1f16-\u1f17\u1f1e-\u1f1f\u1f46-\u1f47\u1f4e-\u1f4f\u1f58\u1f5a\u1f5c\u1f5e\u1f7e-\u1f7f\u1fb5\u1fc5\u1fd4-\u1fd5\u1fdc\u1ff0-\u1ff1\u1ff5\u1fff-\u200f\u2028-\u202f\u205f-\u206f\u2072-\u2073\u20c5-\u20cf\u20f1-\u20ff\u218c-\u218f\u242a-\u243f\u244b-\u245f\u2800\u2b74-\u2b75\u2cf4-\u2cf8\u2d26\u2d28-\u2d2c\u2d2e-\u2d2f\u2d68-\u2d6e\u2d71-\u2d7e\u2d97-\u2d9f\u2da7\u2daf\u2db7\u2dbf\u2dc7\u2dcf\u2dd7\u2ddf\u2e5e-\u2e5f\u2e64-\u2e7f\u2e9a\u2ef4-\u2eff\u2fd6-\u2fef\u3000\u3040\u3097-\u3098\u3100-\u3104\u3130\u3164\u318f\u31e6-\u31ee\u321f\ua48d-\ua48f\ua4c7-\ua4cf\ua62c-\ua63f\ua6f8-\ua6ff\ua7de-\ua7e1\ua7e3-\ua7f0\ua82d-\ua82f\ua83a-\ua83f\ua878-\ua87f\ua8c6-\ua8cd\ua8da-\ua8df\ua954-\ua95e\ua97d-\ua97f\ua9ce\ua9da-\ua9dd\ua9ff\uaa37-\uaa3f\uaa4e-\uaa4f\uaa5a-\uaa5b\uaac3-\uaada\uaaf7-\uab00\uab07-\uab08\uab0f-\uab10\uab17-\uab1f\uab27\uab2f\uab6e-\uab6f\uabee-\uabef\uabfa-\uabff\ud7a4-\ud7af\ud7c7-\ud7ca\ud7fc-\ud7ff\ue000-\uf8ff\ufa6e-\ufa6f\ufada-\ufaff\ufb07-\ufb12\ufb18-\ufb1c\ufb37\ufb3d\ufb3f\ufb42\ufb45\ufdd0-\ufdef\ufe00-\ufe0f\ufe1a-\ufe1f\ufe53\ufe67\ufe6c-\ufe6f\ufe75\ufefd-\uff00\uffa0\uffbf-\uffc1\uffc8-\uffc9\uffd0-\uffd1\uffd8-\uffd9\uffdd-\uffdf\uffe7\uffef-\uffff\U0001000c\U00010027\U0001003b\U0001003e\U0001004e-\U0001004f\U0001005e-\U0001007f\U000100fb-\U000100ff\U00010103-\U00010106\U00010134-\U00010136\U0001018f\U0001019d-\U0001019f\U000101a1-\U000101cf\U000101fe-\U0001027f\U0001029d-\U0001029f\U000102d1-\U000102df\U000102fc-\U000102ff\U00010324-\U0001032c\U0001034b-\U0001034f\U0001037b-\U0001037f\U0001039e\U000103c4-\U000103c7\U000103d6-\U000103ff\U0001049e-\U0001049f\U000104aa-\U000104af\U000104d4-\U000104d7\U000104fc-\U000104ff\U00010528-\U0001052f\U00010564-\U0001056e\U0001057b\U0001058b\U00010593\U00010596\U000105a2\U000105b2\U000105ba\U000105bd-\U000105bf\U000105f4-\U000105ff\U00010737-\U0001073f\U00010756-\U0001075f\U00010768-\U0001077f\U00010786\U000107b1\U000107c0-\U000107ff\U00010806-\U00010807\U00010809\U00010836\U00010839-\U0001083b\U0001083d-\U0001083e\U00010856\U0001089f-\U000108a6\U000108b0-\U000108df\U000108f3\U000108f6-\U000108fa\U0001091c-\U0001091e\U0001093a-\U0001093e\U0001095a-\U0001097f\U000109b8-\U000109bb\U000109d0-\U000109d1\U00010a04\U00010a07-\U00010a0b\U00010a14\U00010a18\U00010a36-\U00010a37\U00010a3b-\U00010a3e\U00010a49-\U00010a4f\U00010a59-\U00010a5f\U00010aa0-\U00010abf\U00010ae7-\U00010aea\U00010af7-\U00010aff\U00010b36-\U00010b38\U00010b56-\U00010b57\U00010b73-\U00010b77\U00010b92-\U00010b98\U00010b9d-\U00010ba8\U00010bb0-\U00010bff\U00010c49-\U00010c7f\U00010cb3-\U00010cbf\U00010cf3-\U00010cf9\U00010d28-\U00010d2f\U00010d3a-\U00010d3f\U00010d66-\U00010d68\U00010d86-\U00010d8d\U00010d90-\U00010e5f\U00010e7f\U00010eaa\U00010eae-\U00010eaf\U00010eb2-\U00010ec1\U00010ec8\U00010eef\U00010f28-\U00010f2f\U00010f5a-\U00010f6f\U00010f8a-\U00010faf\U00010fcc-\U00010fdf\U00010ff7-\U00010fff\U0001104e-\U00011051\U00011076-\U0001107e\U000110bd\U000110c3-\U000110cf\U000110e9-\U000110ef\U000110fa-\U000110ff\U00011135\U00011148-\U0001114f\U00011177-\U0001117f\U000111e0\U000111f5-\U000111ff\U00011212\U00011242-\U0001127f\U00011287\U00011289\U0001128e\U0001129e\U000112aa-\U000112af\U000112eb-\U000112ef\U000112fa-\U000112ff\U00011304\U0001130d-\U0001130e\U00011311-\U00011312\U00011329\U00011331\U00011334\U0001133a\U00011345-\U00011346\U00011349-\U0001134a\U0001134e-\U0001134f\U00011351-\U00011356\U00011358-\U0001135c\U00011364-\U00011365\U0001136d-\U0001136f\U00011375-\U0001137f\U0001138a\U0001138c-\U0001138d\U0001138f\U000113b6\U000113c1\U000113c3-\U000113c4\U000113c6\U000113cb\U000113d6\U000113d9-\U000113e0\U000113e3-\U000113ff\U0001145c\U00011462-\U0001147f\U000114c8-\U000114cf\U000114da-\U0001157f\U000115b6-\U000115b7\U000115de-\U000115ff\U00011645-\U0001164f\U0001165a-\U0001165f\U0001166d-\U0001167f\U000116ba-\U000116bf\U000116ca-\U000116cf\U000116e4-\U000116ff\U0001171b-\U0001171c\U0001172c-\U0001172f\U00011747-\U000117ff\U0001183c-\U0001189f\U000118f3-\U000118fe\U00011907-\U00011908\U0001190a-\U0001190b\U00011914\U00011917\U00011936\U00011939-\U0001193a\U00011947-\U0001194f\U0001195a-\U0001199f\U000119a8-\U000119a9\U000119d8-\U000119d9\U000119e5-\U000119ff\U00011a48-\U00011a4f\U00011aa3-\U00011aaf\U00011af9-\U00011aff\U00011b0b-\U00011b5f\U00011b68-\U00011bbf\U00011be2-\U00011bef\U00011bfa-\U00011bff\U00011c09\U00011c37\U00011c46-\U00011c4f\U00011c6d-\U00011c6f\U00011c90-\U00011c91\U00011ca8\U00011cb7-\U00011cff\U00011d07\U00011d0a\U00011d37-\U00011d39\U00011d3b\U00011d3e\U00011d48-\U00011d4f\U00011d5a-\U00011d5f\U00011d66\U00011d69\U00011d8f\U00011d92\U00011d99-\U00011d9f\U00011daa-\U00011daf\U00011ddc-\U00011ddf\U00011dea-\U00011def\U00011df2-\U00011edf\U00011ef9-\U00011eff\U00011f11\U00011f3b-\U00011f3d\U00011f5b-\U00011faf\U00011fb1-\U00011fbf\U00011ff2-\U00011ffe\U0001239a-\U000123ff\U00012544-\U0001254f\U00012687-\U00012f8f\U00012ff3-\U00012fff\U00013430-\U0001343f\U00013441-\U00013442\U00013456-\U0001345f\U000143fb-\U000143ff\U00014647-\U000160ff\U0001613a-\U000167ff\U00016a39-\U00016a3f\U00016a5f\U00016a6a-\U00016a6d\U00016abf\U00016aca-\U00016acf\U00016aee-\U00016aef\U00016af6-\U00016aff\U00016b46-\U00016b4f\U00016b5a\U00016b62\U00016b78-\U00016b7c\U00016b90-\U00016d3f\U00016d7a-\U00016e3f\U00016e9b-\U00016e9f\U00016eb9-\U00016eba\U00016ed4-\U00016eff\U00016f4b-\U00016f4e\U00016f88-\U00016f8e\U00016fa0-\U00016fdf\U00016fe4-\U00016fef\U00016ff7-\U00016fff\U00018cdb-\U00018cfe\U00018d21-\U00018d7f\U00018df3-\U00018dff\U00019192-\U0001919f\U000191d3-\U0001afef\U0001aff4\U0001affc\U0001afff\U0001b129-\U0001b131\U0001b133-\U0001b14f\U0001b153-\U0001b154\U0001b156-\U0001b163\U0001b169-\U0001b16f\U0001b2fc-\U0001bbff\U0001bc6b-\U0001bc6f\U0001bc7d-\U0001bc7f\U0001bc89-\U0001bc8f\U0001bc9a-\U0001bc9b\U0001bca0-\U0001cbff\U0001ccfd-\U0001ccff\U0001ceb4-\U0001ceb9\U0001ced1\U0001ced5-\U0001cedc\U0001cefe-\U0001ceff\U0001cf2e-\U0001cf2f\U0001cf47-\U0001cf4f\U0001cfc4-\U0001cfff\U0001d0f6-\U0001d0ff\U0001d159\U0001d173-\U0001d17a\U0001d246-\U0001d24f\U0001d282-\U0001d2bf\U0001d2d4-\U0001d2df\U0001d2f4-\U0001d2ff\U0001d357-\U0001d35f\U0001d379-\U0001d3ff\U0001d455\U0001d49d\U0001d4a0-\U0001d4a1\U0001d4a3-\U0001d4a4\U0001d4a7-\U0001d4a8\U0001d4ad\U0001d4ba\U0001d4bc\U0001d4c4\U0001d506\U0001d50b-\U0001d50c\U0001d515\U0001d51d\U0001d53a\U0001d53f\U0001d545\U0001d547-\U0001d549\U0001d551\U0001d6a7\U0001d7cc-\U0001d7cd\U0001da8c-\U0001da9a\U0001daa0\U0001dab0-\U0001daff\U0001db1d-\U0001deff\U0001df82-\U0001df8f\U0001df97-\U0001dfcc\U0001e007\U0001e019-\U0001e01a\U0001e022\U0001e025\U0001e02b-\U0001e02f\U0001e06e-\U0001e08e\U0001e090-\U0001e0ff\U0001e12d-\U0001e12f\U0001e13e-\U0001e13f\U0001e14a-\U0001e14d\U0001e150-\U0001e28f\U0001e2af-\U0001e2bf\U0001e2fa-\U0001e2fe\U0001e300-\U0001e4cf\U0001e4fa-\U0001e5cf\U0001e5fb-\U0001e5fe\U0001e600-\U0001e6bf\U0001e6df\U0001e6f6-\U0001e6fd\U0001e700-\U0001e7df\U0001e7e7\U0001e7ec\U0001e7ef\U0001e7ff\U0001e8c5-\U0001e8c6\U0001e8d7-\U0001e8ff\U0001e94c-\U0001e94f\U0001e95a-\U0001e95d\U0001e960-\U0001ec70\U0001ecb5-\U0001ed00\U0001ed3e-\U0001edff\U0001ee04\U0001ee20\U0001ee23\U0001ee25-\U0001ee26\U0001ee28\U0001ee33\U0001ee38\U0001ee3a\U0001ee3c-\U0001ee41\U0001ee43-\U0001ee46\U0001ee48\U0001ee4a\U0001ee4c\U0001ee50\U0001ee53\U0001ee55-\U0001ee56\U0001ee58\U0001ee5a\U0001ee5c\U0001ee5e\U0001ee60\U0001ee63\U0001ee65-\U0001ee66\U0001ee6b\U0001ee73\U0001ee78\U0001ee7d\U0001ee7f\U0001ee8a\U0001ee9c-\U0001eea0\U0001eea4\U0001eeaa\U0001eebc-\U0001eeef\U0001eef2-\U0001efff\U0001f02c-\U0001f02f\U0001f094-\U0001f09f\U0001f0af-\U0001f0b0\U0001f0c0\U0001f0d0\U0001f0f6-\U0001f0ff\U0001f1af-\U0001f1e5\U0001f203-\U0001f20f\U0001f23c-\U0001f23f\U0001f249-\U0001f24f\U0001f252-\U0001f25f\U0001f266-\U0001f2ff\U0001f6da-\U0001f6db\U0001f6ed-\U0001f6ef\U0001f6fd-\U0001f6ff\U0001f7dc-\U0001f7df\U0001f7ec-\U0001f7ef\U0001f80c-\U0001f80f\U0001f848-\U0001f84f\U0001f85a-\U0001f85f\U0001f888-\U0001f88f\U0001f8ae-\U0001f8af\U0001f8bc-\U0001f8bf\U0001f8c2-\U0001f8cf\U0001f8d9-\U0001f8ff\U0001fa58-\U0001fa5f\U0001fa6e-\U0001fa6f\U0001fa7d-\U0001fa7f\U0001fac7\U0001fac9-\U0001facb\U0001fade\U0001faec-\U0001faee\U0001fafb-\U0001faff\U0001fb93\U0001fbfb-\U0001ffff\U0002a6e0-\U0002a6ff\U0002b81f\U0002ceae-\U0002ceaf\U0002ebe1-\U0002ebef\U0002ee5e-\U0002f7ff\U0002fa1e-\U0002ffff\U0003134b-\U0003134f\U0003347a-\U0003cfff\U0003fc40-\U0010ffff]' then 'this must not be empty' end
$$;
-- The first fault of a job's arguments, as `field: sentence`; null where there is none, or where the kind reads them itself.
create function noshi.args_fault(p_kind text, p_args jsonb) returns text language plpgsql stable
as $$
begin
    if jsonb_typeof(p_args) is distinct from 'object' then
        return 'args: these must be an object';
    end if;
    return case p_kind
        when 'bulk_grants' then case
            when coalesce(jsonb_typeof(p_args -> 'batch'), 'null') = 'null' then 'args.batch: this is missing; it must be a whole number from 1 to 9223372036854775807'
            when case when jsonb_typeof(p_args -> 'batch') = 'number' then (p_args ->> 'batch')::numeric not between 1 and 9223372036854775807 or (p_args ->> 'batch')::numeric <> trunc((p_args ->> 'batch')::numeric) else jsonb_typeof(p_args -> 'batch') <> 'null' end then 'args.batch: this must be a whole number from 1 to 9223372036854775807'
            when (p_args) - array['batch'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are batch' end
            end
        when 'email' then case
            when coalesce(jsonb_typeof(p_args -> 'template'), 'null') = 'null' then 'args.template: this is missing; it must be one of gift_granted'
            when jsonb_typeof(p_args -> 'template') not in ('null', 'string') or (p_args ->> 'template') not in ('gift_granted') then 'args.template: this must be one of gift_granted'
            when coalesce(jsonb_typeof(p_args -> 'reference'), 'null') = 'null' then 'args.reference: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'reference') not in ('null', 'string') then 'args.reference: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'reference'), 100) is not null then 'args.reference: ' || noshi.id_fault((p_args ->> 'reference'), 100)
            when coalesce(jsonb_typeof(p_args -> 'recipient'), 'null') = 'null' then 'args.recipient: this is missing; it must be an id of 1 to 200 bytes'
            when jsonb_typeof(p_args -> 'recipient') not in ('null', 'string') then 'args.recipient: this must be an id of 1 to 200 bytes'
            when noshi.id_fault((p_args ->> 'recipient'), 200) is not null then 'args.recipient: ' || noshi.id_fault((p_args ->> 'recipient'), 200)
            when jsonb_typeof(p_args -> 'params') = 'null' then 'args.params: this is missing; it must be an object of texts'
            when jsonb_typeof(p_args -> 'params') not in ('null', 'object') or case when jsonb_typeof(p_args -> 'params') = 'object' then jsonb_path_exists(p_args -> 'params', '$.* ? (@.type() != "string")') end then 'args.params: this must be an object of texts'
            when (p_args) - array['template', 'reference', 'recipient', 'params'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are template, reference, recipient, params' end
            end
        when 'gift_issuance' then case
            when starts_with(p_args ->> 'grant', 'exchange/') and not pg_has_role(session_user, 'noshi_worker', 'member') then 'args.grant: an id that begins with exchange/ belongs to an exchange of points; use another'
            when coalesce(jsonb_typeof(p_args -> 'grant'), 'null') = 'null' then 'args.grant: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'grant') not in ('null', 'string') then 'args.grant: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'grant'), '@') > 0 then 'args.grant: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'grant'), 100) is not null then 'args.grant: ' || noshi.id_fault((p_args ->> 'grant'), 100)
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 100) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 100)
            when coalesce(jsonb_typeof(p_args -> 'category'), 'null') = 'null' then 'args.category: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'category') not in ('null', 'string') then 'args.category: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'category'), 100) is not null then 'args.category: ' || noshi.id_fault((p_args ->> 'category'), 100)
            when coalesce(jsonb_typeof(p_args -> 'value'), 'null') = 'null' then 'args.value: this is missing; it must be an object'
            when jsonb_typeof(p_args -> 'value') not in ('null', 'object') then 'args.value: this must be an object'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'amount'), 'null') = 'null' then 'args.value.amount: this is missing; it must be a whole number of minor units above 0, and at most 9000000000000000'
            when case when jsonb_typeof(p_args -> 'value' -> 'amount') = 'number' then (p_args -> 'value' ->> 'amount')::numeric not between 1 and 9000000000000000 or (p_args -> 'value' ->> 'amount')::numeric <> trunc((p_args -> 'value' ->> 'amount')::numeric) else jsonb_typeof(p_args -> 'value' -> 'amount') <> 'null' end then 'args.value.amount: this must be a whole number of minor units above 0, and at most 9000000000000000'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'currency'), 'null') = 'null' then 'args.value.currency: this is missing; it must be one of JPY, USD'
            when jsonb_typeof(p_args -> 'value' -> 'currency') not in ('null', 'string') or (p_args -> 'value' ->> 'currency') not in ('JPY', 'USD') then 'args.value.currency: this must be one of JPY, USD'
            when (p_args -> 'value') - array['amount', 'currency'] <> '{}' then 'args.value: there is a field that is not known; there are amount, currency'
            when jsonb_typeof(p_args -> 'provider') not in ('null', 'string') then 'args.provider: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'provider'), 100) is not null then 'args.provider: ' || noshi.id_fault((p_args ->> 'provider'), 100)
            when case when jsonb_typeof(p_args -> 'valid_days') = 'number' then (p_args ->> 'valid_days')::numeric not between 1 and 3650 or (p_args ->> 'valid_days')::numeric <> trunc((p_args ->> 'valid_days')::numeric) else jsonb_typeof(p_args -> 'valid_days') <> 'null' end then 'args.valid_days: this must be a whole number from 1 to 3650'
            when jsonb_typeof(p_args -> 'area') not in ('null', 'string') then 'args.area: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'area'), 100) is not null then 'args.area: ' || noshi.id_fault((p_args ->> 'area'), 100)
            when jsonb_typeof(p_args -> 'paid_by') <> 'null' and not pg_has_role(session_user, 'noshi_worker', 'member') then 'args.paid_by: this must be left out: noshi sets it'
            when (p_args) - array['grant', 'user', 'category', 'value', 'provider', 'valid_days', 'area', 'paid_by'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are grant, user, category, value, provider, valid_days, area, paid_by' end
            end
        when 'point_exchange' then case
            when coalesce(jsonb_typeof(p_args -> 'exchange'), 'null') = 'null' then 'args.exchange: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'exchange') not in ('null', 'string') then 'args.exchange: this must be an id of 1 to 90 bytes'
            when strpos((p_args ->> 'exchange'), '@') > 0 then 'args.exchange: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'exchange'), 90) is not null then 'args.exchange: ' || noshi.id_fault((p_args ->> 'exchange'), 90)
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 90 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 90) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 90)
            when coalesce(jsonb_typeof(p_args -> 'points'), 'null') = 'null' then 'args.points: this is missing; it must be a whole number from 1 to 1000000000'
            when case when jsonb_typeof(p_args -> 'points') = 'number' then (p_args ->> 'points')::numeric not between 1 and 1000000000 or (p_args ->> 'points')::numeric <> trunc((p_args ->> 'points')::numeric) else jsonb_typeof(p_args -> 'points') <> 'null' end then 'args.points: this must be a whole number from 1 to 1000000000'
            when jsonb_typeof(p_args -> 'area') not in ('null', 'string') then 'args.area: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'area'), 100) is not null then 'args.area: ' || noshi.id_fault((p_args ->> 'area'), 100)
            when coalesce(jsonb_typeof(p_args -> 'category'), 'null') = 'null' then 'args.category: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'category') not in ('null', 'string') then 'args.category: this must be an id of 1 to 90 bytes'
            when noshi.id_fault((p_args ->> 'category'), 90) is not null then 'args.category: ' || noshi.id_fault((p_args ->> 'category'), 90)
            when coalesce(jsonb_typeof(p_args -> 'value'), 'null') = 'null' then 'args.value: this is missing; it must be an object'
            when jsonb_typeof(p_args -> 'value') not in ('null', 'object') then 'args.value: this must be an object'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'amount'), 'null') = 'null' then 'args.value.amount: this is missing; it must be a whole number of minor units above 0, and at most 9000000000000000'
            when case when jsonb_typeof(p_args -> 'value' -> 'amount') = 'number' then (p_args -> 'value' ->> 'amount')::numeric not between 1 and 9000000000000000 or (p_args -> 'value' ->> 'amount')::numeric <> trunc((p_args -> 'value' ->> 'amount')::numeric) else jsonb_typeof(p_args -> 'value' -> 'amount') <> 'null' end then 'args.value.amount: this must be a whole number of minor units above 0, and at most 9000000000000000'
            when coalesce(jsonb_typeof(p_args -> 'value' -> 'currency'), 'null') = 'null' then 'args.value.currency: this is missing; it must be one of JPY, USD'
            when jsonb_typeof(p_args -> 'value' -> 'currency') not in ('null', 'string') or (p_args -> 'value' ->> 'currency') not in ('JPY', 'USD') then 'args.value.currency: this must be one of JPY, USD'
            when (p_args -> 'value') - array['amount', 'currency'] <> '{}' then 'args.value: there is a field that is not known; there are amount, currency'
            when jsonb_typeof(p_args -> 'provider') not in ('null', 'string') then 'args.provider: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'provider'), 100) is not null then 'args.provider: ' || noshi.id_fault((p_args ->> 'provider'), 100)
            when jsonb_typeof(p_args -> 'grace_days') = 'null' then 'args.grace_days: this is missing; it must be a whole number from 0 to 3650'
            when case when jsonb_typeof(p_args -> 'grace_days') = 'number' then (p_args ->> 'grace_days')::numeric not between 0 and 3650 or (p_args ->> 'grace_days')::numeric <> trunc((p_args ->> 'grace_days')::numeric) else jsonb_typeof(p_args -> 'grace_days') <> 'null' end then 'args.grace_days: this must be a whole number from 0 to 3650'
            when (p_args) - array['exchange', 'user', 'points', 'area', 'category', 'value', 'provider', 'grace_days'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are exchange, user, points, area, category, value, provider, grace_days' end
            end
        when 'point_expiry' then case
            when coalesce(jsonb_typeof(p_args -> 'due'), 'null') = 'null' then 'args.due: this is missing; it must be an id of 1 to 40 bytes'
            when jsonb_typeof(p_args -> 'due') not in ('null', 'string') then 'args.due: this must be an id of 1 to 40 bytes'
            when noshi.id_fault((p_args ->> 'due'), 40) is not null then 'args.due: ' || noshi.id_fault((p_args ->> 'due'), 40)
            when (p_args) - array['due'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are due' end
            end
        when 'point_grant' then case
            when coalesce(jsonb_typeof(p_args -> 'benefit'), 'null') = 'null' then 'args.benefit: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'benefit') not in ('null', 'string') then 'args.benefit: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'benefit'), 100) is not null then 'args.benefit: ' || noshi.id_fault((p_args ->> 'benefit'), 100)
            when coalesce(jsonb_typeof(p_args -> 'source'), 'null') = 'null' then 'args.source: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'source') not in ('null', 'string') then 'args.source: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'source'), '@') > 0 then 'args.source: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'source'), 100) is not null then 'args.source: ' || noshi.id_fault((p_args ->> 'source'), 100)
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 100) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 100)
            when coalesce(jsonb_typeof(p_args -> 'points'), 'null') = 'null' then 'args.points: this is missing; it must be a whole number from 1 to 1000000000'
            when case when jsonb_typeof(p_args -> 'points') = 'number' then (p_args ->> 'points')::numeric not between 1 and 1000000000 or (p_args ->> 'points')::numeric <> trunc((p_args ->> 'points')::numeric) else jsonb_typeof(p_args -> 'points') <> 'null' end then 'args.points: this must be a whole number from 1 to 1000000000'
            when coalesce(jsonb_typeof(p_args -> 'valid_days'), 'null') = 'null' then 'args.valid_days: this is missing; it must be a whole number from 0 to 3650'
            when case when jsonb_typeof(p_args -> 'valid_days') = 'number' then (p_args ->> 'valid_days')::numeric not between 0 and 3650 or (p_args ->> 'valid_days')::numeric <> trunc((p_args ->> 'valid_days')::numeric) else jsonb_typeof(p_args -> 'valid_days') <> 'null' end then 'args.valid_days: this must be a whole number from 0 to 3650'
            when jsonb_typeof(p_args -> 'zone') = 'null' then 'args.zone: this is missing; it must be an id of 1 to 60 bytes'
            when jsonb_typeof(p_args -> 'zone') not in ('null', 'string') then 'args.zone: this must be an id of 1 to 60 bytes'
            when noshi.id_fault((p_args ->> 'zone'), 60) is not null then 'args.zone: ' || noshi.id_fault((p_args ->> 'zone'), 60)
            when jsonb_typeof(p_args -> 'area') not in ('null', 'string') then 'args.area: this must be an id of 1 to 100 bytes'
            when noshi.id_fault((p_args ->> 'area'), 100) is not null then 'args.area: ' || noshi.id_fault((p_args ->> 'area'), 100)
            when (p_args) - array['benefit', 'source', 'user', 'points', 'valid_days', 'zone', 'area'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are benefit, source, user, points, valid_days, zone, area' end
            when strpos(p_args ->> 'benefit', ':') > 0 then 'args.benefit: this must not contain a colon'
            end
        when 'point_reversal' then case
            when coalesce(jsonb_typeof(p_args -> 'exchange'), 'null') = 'null' then 'args.exchange: this is missing; it must be an id of 1 to 90 bytes'
            when jsonb_typeof(p_args -> 'exchange') not in ('null', 'string') then 'args.exchange: this must be an id of 1 to 90 bytes'
            when strpos((p_args ->> 'exchange'), '@') > 0 then 'args.exchange: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'exchange'), 90) is not null then 'args.exchange: ' || noshi.id_fault((p_args ->> 'exchange'), 90)
            when jsonb_typeof(p_args -> 'grace_days') = 'null' then 'args.grace_days: this is missing; it must be a whole number from 0 to 3650'
            when case when jsonb_typeof(p_args -> 'grace_days') = 'number' then (p_args ->> 'grace_days')::numeric not between 0 and 3650 or (p_args ->> 'grace_days')::numeric <> trunc((p_args ->> 'grace_days')::numeric) else jsonb_typeof(p_args -> 'grace_days') <> 'null' end then 'args.grace_days: this must be a whole number from 0 to 3650'
            when (p_args) - array['exchange', 'grace_days'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are exchange, grace_days' end
            end
        when 'point_withdrawal' then case
            when coalesce(jsonb_typeof(p_args -> 'user'), 'null') = 'null' then 'args.user: this is missing; it must be an id of 1 to 100 bytes'
            when jsonb_typeof(p_args -> 'user') not in ('null', 'string') then 'args.user: this must be an id of 1 to 100 bytes'
            when strpos((p_args ->> 'user'), '@') > 0 then 'args.user: this looks like an address; use an id of your own'
            when noshi.id_fault((p_args ->> 'user'), 100) is not null then 'args.user: ' || noshi.id_fault((p_args ->> 'user'), 100)
            when (p_args) - array['user'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are user' end
            end
        when 'store_creation' then case
            when coalesce(jsonb_typeof(p_args -> 'organization'), 'null') = 'null' then 'args.organization: this is missing; it must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when jsonb_typeof(p_args -> 'organization') not in ('null', 'string') or (p_args ->> 'organization') collate "C" !~ '^[A-Za-z0-9_.-]{1,60}$' or (p_args ->> 'organization') in ('.', '..') then 'args.organization: this must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when coalesce(jsonb_typeof(p_args -> 'public_id'), 'null') = 'null' then 'args.public_id: this is missing; it must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when jsonb_typeof(p_args -> 'public_id') not in ('null', 'string') or (p_args ->> 'public_id') collate "C" !~ '^[A-Za-z0-9_.-]{1,60}$' or (p_args ->> 'public_id') in ('.', '..') then 'args.public_id: this must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when coalesce(jsonb_typeof(p_args -> 'name'), 'null') = 'null' then 'args.name: this is missing; it must be a text of 1 to 400 bytes'
            when jsonb_typeof(p_args -> 'name') not in ('null', 'string') then 'args.name: this must be a text of 1 to 400 bytes'
            when noshi.text_fault((p_args ->> 'name'), 400) is not null then 'args.name: ' || noshi.text_fault((p_args ->> 'name'), 400)
            when jsonb_typeof(p_args -> 'address') <> 'null' then 'args.address: this is sealed before it reaches the database: ask over HTTP or by a file, or seal it with `noshi vault seal-contact`; nothing was taken'
            when jsonb_typeof(p_args -> 'phone') <> 'null' then 'args.phone: this is sealed before it reaches the database: ask over HTTP or by a file, or seal it with `noshi vault seal-contact`; nothing was taken'
            when case when jsonb_typeof(p_args -> 'contact') = 'object' then ((p_args -> 'contact') - array['key', 'nonce', 'ciphertext'] = '{}' and (p_args -> 'contact' ->> 'key') collate "C" ~ '^[A-Za-z0-9_-]{1,32}$' and (p_args -> 'contact' ->> 'nonce') collate "C" ~ '^[A-Za-z0-9+/]{32}$' and octet_length(p_args -> 'contact' ->> 'ciphertext') <= 8000 and (p_args -> 'contact' ->> 'ciphertext') collate "C" ~ '^([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$') is not true else jsonb_typeof(p_args -> 'contact') <> 'null' end then 'args.contact: this must be what `noshi vault seal-contact` prints'
            when coalesce(jsonb_typeof(p_args -> 'request'), 'null') = 'null' then 'args.request: this is missing; it must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when jsonb_typeof(p_args -> 'request') not in ('null', 'string') or (p_args ->> 'request') collate "C" !~ '^[A-Za-z0-9_.-]{1,60}$' or (p_args ->> 'request') in ('.', '..') then 'args.request: this must be 1 to 60 letters, digits, `-`, `_` or `.`'
            when (p_args) - array['organization', 'public_id', 'name', 'address', 'phone', 'contact', 'request'] <> '{}' then case when jsonb_path_exists(p_args, '$.**{33 to last}') then 'args: these go deeper than 32 levels'
                when jsonb_path_exists(p_args, '$.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))') then 'args: these hold a number that is too large'
                else 'args: there is a field that is not known; there are organization, public_id, name, address, phone, contact, request' end
            end
        end;
end $$;
-- Whether a request is good at one look; what is not, may be good too. The texts of a request are looked at as one, each with a space
-- before it: so none is empty, and none begins or ends with a space.
create function noshi.is_usual(p_kind text, p_key text, p_args jsonb) returns boolean language plpgsql immutable parallel safe
as $$
begin
    -- Not in SQL, and not one expression: the one would be planned, the other made ready, anew for each request.
    if (octet_length($2) <= 200 and ' ' || $2 collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$') is not true then
        return false;
    elsif $1 = 'bulk_grants' then
        return jsonb_typeof($3) = 'object'
            and $3 -> 'batch' between '1' and '9223372036854775807' and strpos($3 ->> 'batch', '.') = 0
            and ($3) - array['batch'] = '{}';
    elsif $1 = 'email' then
        return jsonb_typeof($3) = 'object'
            and $3 -> 'template' in ('"gift_granted"')
            and jsonb_typeof($3 -> 'reference') = 'string' and octet_length($3 ->> 'reference') <= 100
            and jsonb_typeof($3 -> 'recipient') = 'string' and octet_length($3 ->> 'recipient') <= 200
            and (jsonb_typeof($3 -> 'params') = 'object' and not jsonb_path_exists($3 -> 'params', '$.* ? (@.type() != "string")')) is not false
            and (' ' || ($3 ->> 'reference') || ' ' || ($3 ->> 'recipient')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['template', 'reference', 'recipient', 'params'] = '{}';
    elsif $1 = 'gift_issuance' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'grant') = 'string' and octet_length($3 ->> 'grant') <= 100 and strpos($3 ->> 'grant', '@') = 0
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 100 and strpos($3 ->> 'user', '@') = 0
            and jsonb_typeof($3 -> 'category') = 'string' and octet_length($3 ->> 'category') <= 100
            and jsonb_typeof($3 -> 'value') = 'object'
            and $3 -> 'value' -> 'amount' between '1' and '9000000000000000' and strpos($3 -> 'value' ->> 'amount', '.') = 0
            and $3 -> 'value' -> 'currency' in ('"JPY"', '"USD"')
            and ($3 -> 'value') - array['amount', 'currency'] = '{}'
            and (jsonb_typeof($3 -> 'provider') = 'string' and octet_length($3 ->> 'provider') <= 100) is not false
            and ($3 -> 'valid_days' between '1' and '3650' and strpos($3 ->> 'valid_days', '.') = 0) is not false
            and (jsonb_typeof($3 -> 'area') = 'string' and octet_length($3 ->> 'area') <= 100) is not false
            and (' ' || ($3 ->> 'grant') || ' ' || ($3 ->> 'user') || ' ' || ($3 ->> 'category') || coalesce(' ' || ($3 ->> 'provider'), '') || coalesce(' ' || ($3 ->> 'area'), '')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['grant', 'user', 'category', 'value', 'provider', 'valid_days', 'area'] = '{}'
            and not starts_with($3 ->> 'grant', 'exchange/');
    elsif $1 = 'point_exchange' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'exchange') = 'string' and octet_length($3 ->> 'exchange') <= 90 and strpos($3 ->> 'exchange', '@') = 0
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 90 and strpos($3 ->> 'user', '@') = 0
            and $3 -> 'points' between '1' and '1000000000' and strpos($3 ->> 'points', '.') = 0
            and (jsonb_typeof($3 -> 'area') = 'string' and octet_length($3 ->> 'area') <= 100) is not false
            and jsonb_typeof($3 -> 'category') = 'string' and octet_length($3 ->> 'category') <= 90
            and jsonb_typeof($3 -> 'value') = 'object'
            and $3 -> 'value' -> 'amount' between '1' and '9000000000000000' and strpos($3 -> 'value' ->> 'amount', '.') = 0
            and $3 -> 'value' -> 'currency' in ('"JPY"', '"USD"')
            and ($3 -> 'value') - array['amount', 'currency'] = '{}'
            and (jsonb_typeof($3 -> 'provider') = 'string' and octet_length($3 ->> 'provider') <= 100) is not false
            and ($3 -> 'grace_days' between '0' and '3650' and strpos($3 ->> 'grace_days', '.') = 0) is not false
            and (' ' || ($3 ->> 'exchange') || ' ' || ($3 ->> 'user') || coalesce(' ' || ($3 ->> 'area'), '') || ' ' || ($3 ->> 'category') || coalesce(' ' || ($3 ->> 'provider'), '')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['exchange', 'user', 'points', 'area', 'category', 'value', 'provider', 'grace_days'] = '{}';
    elsif $1 = 'point_expiry' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'due') = 'string' and octet_length($3 ->> 'due') <= 40
            and (' ' || ($3 ->> 'due')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['due'] = '{}';
    elsif $1 = 'point_grant' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'benefit') = 'string' and octet_length($3 ->> 'benefit') <= 100
            and jsonb_typeof($3 -> 'source') = 'string' and octet_length($3 ->> 'source') <= 100 and strpos($3 ->> 'source', '@') = 0
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 100 and strpos($3 ->> 'user', '@') = 0
            and $3 -> 'points' between '1' and '1000000000' and strpos($3 ->> 'points', '.') = 0
            and $3 -> 'valid_days' between '0' and '3650' and strpos($3 ->> 'valid_days', '.') = 0
            and (jsonb_typeof($3 -> 'zone') = 'string' and octet_length($3 ->> 'zone') <= 60) is not false
            and (jsonb_typeof($3 -> 'area') = 'string' and octet_length($3 ->> 'area') <= 100) is not false
            and (' ' || ($3 ->> 'benefit') || ' ' || ($3 ->> 'source') || ' ' || ($3 ->> 'user') || coalesce(' ' || ($3 ->> 'zone'), '') || coalesce(' ' || ($3 ->> 'area'), '')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['benefit', 'source', 'user', 'points', 'valid_days', 'zone', 'area'] = '{}'
            and strpos($3 ->> 'benefit', ':') = 0;
    elsif $1 = 'point_reversal' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'exchange') = 'string' and octet_length($3 ->> 'exchange') <= 90 and strpos($3 ->> 'exchange', '@') = 0
            and ($3 -> 'grace_days' between '0' and '3650' and strpos($3 ->> 'grace_days', '.') = 0) is not false
            and (' ' || ($3 ->> 'exchange')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['exchange', 'grace_days'] = '{}';
    elsif $1 = 'point_withdrawal' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'user') = 'string' and octet_length($3 ->> 'user') <= 100 and strpos($3 ->> 'user', '@') = 0
            and (' ' || ($3 ->> 'user')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['user'] = '{}';
    elsif $1 = 'probe' then
        return jsonb_typeof($3) = 'object' and octet_length($3::text) <= 65536 and strpos($3::text, '.') = 0;
    elsif $1 = 'store_creation' then
        return jsonb_typeof($3) = 'object'
            and jsonb_typeof($3 -> 'organization') = 'string' and octet_length($3 ->> 'organization') <= 60 and ($3 ->> 'organization') collate "C" ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]*$'
            and jsonb_typeof($3 -> 'public_id') = 'string' and octet_length($3 ->> 'public_id') <= 60 and ($3 ->> 'public_id') collate "C" ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]*$'
            and jsonb_typeof($3 -> 'name') = 'string' and octet_length($3 ->> 'name') <= 400
            and jsonb_typeof($3 -> 'request') = 'string' and octet_length($3 ->> 'request') <= 60 and ($3 ->> 'request') collate "C" ~ '^[A-Za-z0-9_-][A-Za-z0-9_.-]*$'
            and (' ' || ($3 ->> 'name')) collate "C" ~ '^(?: [!#--/-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e][!-~\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff\uff01-\uff5e]*)+$'
            and ($3) - array['organization', 'public_id', 'name', 'request'] = '{}';
    end if;
    return false;
end $$;
-- END OF WHAT IS DRAWN

-- Numbers as what they are worth: 500.0 is 500, as JSON has it.
create function noshi.by_value(p_json jsonb, p_depth integer default 0) returns jsonb language plpgsql immutable
as $$
begin
    return case
        when p_depth > 32 then p_json
        when jsonb_typeof(p_json) = 'number' then to_jsonb(trim_scale((p_json #>> '{}')::numeric))
        when jsonb_typeof(p_json) = 'object' then
            (select coalesce(jsonb_object_agg(o.key, noshi.by_value(o.value, p_depth + 1)), '{}') from jsonb_each(p_json) o)
        when jsonb_typeof(p_json) = 'array' then
            (select coalesce(jsonb_agg(noshi.by_value(a.value, p_depth + 1) order by a.n), '[]') from jsonb_array_elements(p_json) with ordinality a(value, n))
        else p_json end;
end $$;

-- A zone as schedules take it: a name, and not a rule or an abbreviation.
create function noshi.is_zone(p_zone text) returns boolean language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return p_zone in ('Asia/Tokyo', 'UTC') or exists (select from noshi.zone z where z.name = p_zone)
        -- One that came with a newer server.
        or (p_zone ~ '^[A-Z][A-Za-z_]+(/[A-Za-z0-9_+-]+)+$' and exists (select from pg_timezone_names z where z.name = p_zone));
end $$;

-- An id that a file has granted names that grant for ever, whichever entry point a request comes by. Before that the file is waited for: whoever
-- comes second sees the first.
create function noshi.must_be_as_granted(p_kind text, p_key text, p_args jsonb) returns void language plpgsql security definer
set search_path = noshi, pg_temp
as $$
declare
    g record;
    -- What a file leaves out is written into its rows.
    asked constant jsonb := case p_kind when 'point_grant' then jsonb_build_object('zone', 'Asia/Tokyo') || p_args else p_args end;
begin
        for g in select b.id, case b.kind when 'points' then jsonb_build_object('zone', 'Asia/Tokyo') || (r.args - array['grant', 'value']) else r.args end as args
        from batch_row r join batch b on b.id = r.batch
        where r.key = p_key and b.kind = case p_kind when 'point_grant' then 'points' else 'grants' end
          and b.registered_at is not null and b.cancelled_at is null
    loop
        if g.args <> asked then
            raise exception '% % exists with other arguments: batch % granted it', p_kind, p_key, g.id
                using errcode = 'NS409', detail = case when may_be_told(null) then differing_fields(g.args, asked) else differing_names(g.args, asked) end,
                      hint = 'An id names one request for ever. Use a new id for a new request.';
        end if;
    end loop;
end $$;

-- What a file and its campaign are called: shown to whoever approves, so all of it can be seen.
create function noshi.must_be_named(p_file text, p_campaign text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
declare fault text := coalesce('file: ' || case when p_file ~ '[/\\]' then 'this holds a slash; a name is no path' else text_fault(p_file, 200) end,
    'campaign: ' || text_fault(p_campaign, 200));
begin
    if fault is not null then
        raise exception '%', fault using errcode = 'NS400', column = split_part(fault, ': ', 1);
    end if;
end $$;

-- A reason that nobody can see is none, whichever act it is for. Blank ones are refused where they are given. One of several lines could look like
-- lines of ours to whoever reads and approves.
create function noshi.must_be_seen(p_reason text) returns void language plpgsql
set search_path = noshi, pg_temp
as $$
begin
    if octet_length(p_reason) > 4000 then
        raise exception 'a reason has at most 4000 bytes, and this has %', octet_length(p_reason) using errcode = 'NS400', hint = 'Nothing was changed.';
    end if;
    if p_reason ~ '[^[:space:]]' and text_fault(p_reason, 2147483647) = 'this must not be empty' then
        raise exception 'an act needs a reason that can be seen' using errcode = 'NS400';
    end if;
    if text_fault(p_reason, 2147483647) like '%control character%' then
        raise exception 'a reason is one line, without control characters: %', text_fault(p_reason, 2147483647) using errcode = 'NS400',
            hint = 'Nothing was changed. Write it in one line.';
    end if;
end $$;

-- As `field: sentence`: the first fault of a request, its id before its arguments.
create function noshi.request_fault(p_kind text, p_key text, p_args jsonb) returns text language plpgsql stable
as $$
begin
    return coalesce('id: ' || noshi.id_fault(p_key, 200), noshi.args_fault(p_kind, p_args), noshi.own_fault(p_kind, p_key, p_args));
end $$;

insert into noshi.kind (name, for_tests) values
    ('bulk_grants', false), ('email', false), ('gift_issuance', false), ('point_exchange', false), ('point_expiry', false),
    ('point_grant', false), ('point_reversal', false), ('point_withdrawal', false), ('probe', true), ('store_creation', false);

insert into noshi.zone select name from pg_timezone_names where name ~ '/' and name !~ '^(posix|right)/' on conflict do nothing;

revoke all on function noshi.args_fault(text, jsonb), noshi.by_value(jsonb, integer), noshi.id_fault(text, integer),
    noshi.is_usual(text, text, jsonb), noshi.is_zone(text), noshi.must_be_as_granted(text, text, jsonb),
    noshi.must_be_named(text, text), noshi.must_be_seen(text), noshi.request_fault(text, text, jsonb), noshi.text_fault(text, integer)
    from public;

reset role;
