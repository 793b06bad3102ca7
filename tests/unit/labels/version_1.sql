-- A database of schema version 1: two tasks, three answers of two people, a draft.
BEGIN TRANSACTION;
CREATE TABLE annotators (
	id VARCHAR(32) NOT NULL, 
	pseudonym VARCHAR(40) NOT NULL, 
	kind VARCHAR(10) NOT NULL, 
	role VARCHAR(10) NOT NULL, 
	active BOOLEAN NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (pseudonym)
);
INSERT INTO "annotators" VALUES('b311d80528f6c9f9a758641612809c8f','annotator-01','human','annotator',1,1800000005.0);
INSERT INTO "annotators" VALUES('2e9e74541e02b0418c74acdeb874ba9a','annotator-02','human','annotator',1,1800000007.0);
CREATE TABLE answers (
	id INTEGER NOT NULL, 
	event INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	version INTEGER NOT NULL, 
	supersedes INTEGER, 
	submission_id VARCHAR(80) NOT NULL, 
	verdict VARCHAR(15) NOT NULL, 
	ranks TEXT NOT NULL, 
	strengths TEXT NOT NULL, 
	flags TEXT NOT NULL, 
	all_bad BOOLEAN NOT NULL, 
	reason VARCHAR(40) NOT NULL, 
	display_order TEXT NOT NULL, 
	guidelines INTEGER, 
	shown_at FLOAT, 
	first_action_at FLOAT, 
	submitted_at FLOAT NOT NULL, 
	active_seconds FLOAT, 
	surplus BOOLEAN NOT NULL, 
	comment_digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (task_id, annotator_id, version), 
	UNIQUE (event), 
	FOREIGN KEY(event) REFERENCES events (seq), 
	FOREIGN KEY(task_id) REFERENCES tasks (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id), 
	FOREIGN KEY(supersedes) REFERENCES answers (id), 
	UNIQUE (submission_id)
);
INSERT INTO "answers" VALUES(1,5,1,'b311d80528f6c9f9a758641612809c8f',1,NULL,'10a2578d18edb61efe75f2184e054143','ranked','[1,2,2]','[3]','[]',0,'','[0,2,1]',1,1800000009.0,NULL,1800000010.0,NULL,0,'e83caafcb413473b02039c502355b3a43aff47ee3e0b98f01db2043a1fd9e9ce');
INSERT INTO "answers" VALUES(2,6,1,'b311d80528f6c9f9a758641612809c8f',2,1,'cfc0bd5ad2c98ad5a539bcc25741f4a2','ranked','[2,3,1]','[]','[]',0,'','[0,2,1]',1,1800000011.0,NULL,1800000012.0,NULL,0,'');
INSERT INTO "answers" VALUES(3,7,1,'2e9e74541e02b0418c74acdeb874ba9a',1,NULL,'59c09a39845b3a7f22a852cc65f72e50','ranked','[2,1,3]','[]','[[],["false"],[]]',0,'','[1,0,2]',1,1800000013.0,NULL,1800000014.0,NULL,0,'');
CREATE TABLE drafts (
	task_id INTEGER NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	submission_id VARCHAR(80) NOT NULL, 
	display_order TEXT NOT NULL, 
	state TEXT NOT NULL, 
	shown_at FLOAT NOT NULL, 
	first_action_at FLOAT, 
	active_seconds FLOAT NOT NULL, 
	updated_at FLOAT NOT NULL, 
	PRIMARY KEY (task_id, annotator_id), 
	FOREIGN KEY(task_id) REFERENCES tasks (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id), 
	UNIQUE (submission_id)
);
INSERT INTO "drafts" VALUES(2,'b311d80528f6c9f9a758641612809c8f','950acc6cb72dcbb9f9c6c82b60c87d39','[0,2,1]','{"all_bad":false,"comment":"to be","flags":[[],[],[]],"levels":[1,0,0],"strengths":[]}',1800000015.0,1800000016.0,0.0,1800000016.0);
CREATE TABLE events (
	seq INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	actor VARCHAR(32) NOT NULL, 
	payload TEXT NOT NULL, 
	previous VARCHAR(64) NOT NULL, 
	hash VARCHAR(64) NOT NULL, 
	PRIMARY KEY (seq)
);
INSERT INTO "events" VALUES(1,1800000003.0,'guidelines','system','{"sha256":"3a6dbe170a446109a3ae9f6732646528cffc87e5d344466615d2d977904fa878","version":1}','0000000000000000000000000000000000000000000000000000000000000000','d410048b0c918ce24ca8315551c3bc8c74567d2815904ac8fb5dbccaa359497e');
INSERT INTO "events" VALUES(2,1800000004.0,'publish','system','{"overlap":2,"round":1,"seed":1,"tasks":[["p-0","8ad4e53afeeea96f103fe0400c1d469870be7bbc6c7aa210e6eb10e9b2941b2b"],["p-1","6f4cc0f7704e6ad7399a3ea71b1cc9a52e575eacecabad2981579b40682e3efd"]]}','d410048b0c918ce24ca8315551c3bc8c74567d2815904ac8fb5dbccaa359497e','f12c689a29b0e06616f88099fae3701018581f147570663f33fffc249d764562');
INSERT INTO "events" VALUES(3,1800000006.0,'annotator','system','{"annotator":"b311d80528f6c9f9a758641612809c8f","kind":"human","pseudonym":"annotator-01"}','f12c689a29b0e06616f88099fae3701018581f147570663f33fffc249d764562','f72965a8861320a1eccef47be96ecc7fe32299cbbeda43e58aa76afb3af07c90');
INSERT INTO "events" VALUES(4,1800000008.0,'annotator','system','{"annotator":"2e9e74541e02b0418c74acdeb874ba9a","kind":"human","pseudonym":"annotator-02"}','f72965a8861320a1eccef47be96ecc7fe32299cbbeda43e58aa76afb3af07c90','26f3254c392cc95f2df6bfb51daf61db244adf3dd83ce9c58da4a17aae0b293c');
INSERT INTO "events" VALUES(5,1800000010.0,'answer','b311d80528f6c9f9a758641612809c8f','{"annotator":"b311d80528f6c9f9a758641612809c8f","digest":"9c6f317d05cfdac3e086bae085a3e89c720ec89109828a5ee0aa9f349e45ffc2","task":1,"version":1}','26f3254c392cc95f2df6bfb51daf61db244adf3dd83ce9c58da4a17aae0b293c','d6d8ecc7c539b4479c639b6ba25159e20ab2f2251c3df34d026455a8485a1787');
INSERT INTO "events" VALUES(6,1800000012.0,'answer','b311d80528f6c9f9a758641612809c8f','{"annotator":"b311d80528f6c9f9a758641612809c8f","digest":"f7c82a8e9e5e1ac7ea7d72b8a281f4b720c8ce3e51b0a810e60f86a07b348c88","task":1,"version":2}','d6d8ecc7c539b4479c639b6ba25159e20ab2f2251c3df34d026455a8485a1787','9e5e61cfc90ba58a5fd092046b7725c1aa505b53608998994e33a3990fce8eeb');
INSERT INTO "events" VALUES(7,1800000014.0,'answer','2e9e74541e02b0418c74acdeb874ba9a','{"annotator":"2e9e74541e02b0418c74acdeb874ba9a","digest":"07a10f9f3cadba210ca1b1b587256825c7c56cc377c9ca8a3c9f25bfabf99834","task":1,"version":1}','9e5e61cfc90ba58a5fd092046b7725c1aa505b53608998994e33a3990fce8eeb','8e02817488b58bb1a9d0129982fb6540be361f92d7855e4dadf1042b4e7dfd74');
CREATE TABLE guidelines (
	version INTEGER NOT NULL, 
	text TEXT NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "guidelines" VALUES(1,'Be fair.',1800000002.0);
CREATE TABLE login_tokens (
	token_hash VARCHAR(64) NOT NULL, 
	annotator_id VARCHAR(32), 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT NOT NULL, 
	used_at FLOAT, 
	PRIMARY KEY (token_hash), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
CREATE TABLE meta (
	"key" VARCHAR(40) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema_version','1');
INSERT INTO "meta" VALUES('salt','c67d428c0aba5d029af721e00c9724a4');
INSERT INTO "meta" VALUES('created_at','1800000001.0');
CREATE TABLE people (
	annotator_id VARCHAR(32) NOT NULL, 
	name VARCHAR(200) NOT NULL, 
	kind VARCHAR(10) NOT NULL, 
	secret TEXT, 
	PRIMARY KEY (annotator_id), 
	UNIQUE (kind, name), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
INSERT INTO "people" VALUES('b311d80528f6c9f9a758641612809c8f','Ada','human',NULL);
INSERT INTO "people" VALUES('2e9e74541e02b0418c74acdeb874ba9a','Ben','human',NULL);
CREATE TABLE sessions (
	token_hash VARCHAR(64) NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT NOT NULL, 
	PRIMARY KEY (token_hash), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
CREATE TABLE slots (
	task_id INTEGER NOT NULL, 
	slot INTEGER NOT NULL, 
	status VARCHAR(10) NOT NULL, 
	annotator_id VARCHAR(32), 
	expires_at FLOAT, 
	display_order TEXT NOT NULL, 
	PRIMARY KEY (task_id, slot), 
	UNIQUE (task_id, annotator_id), 
	FOREIGN KEY(task_id) REFERENCES tasks (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
INSERT INTO "slots" VALUES(1,0,'done','b311d80528f6c9f9a758641612809c8f',NULL,'[0,2,1]');
INSERT INTO "slots" VALUES(1,1,'done','2e9e74541e02b0418c74acdeb874ba9a',NULL,'[1,0,2]');
INSERT INTO "slots" VALUES(2,0,'leased','b311d80528f6c9f9a758641612809c8f',1800001216.0,'[0,2,1]');
INSERT INTO "slots" VALUES(2,1,'free',NULL,NULL,'[1,0,2]');
CREATE TABLE tasks (
	id INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	prompt_id VARCHAR(200) NOT NULL, 
	content_hash VARCHAR(64) NOT NULL, 
	purpose VARCHAR(10) NOT NULL, 
	candidate_count INTEGER NOT NULL, 
	prompt TEXT NOT NULL, 
	responses TEXT NOT NULL, 
	priority FLOAT NOT NULL, 
	position INTEGER NOT NULL, 
	seed INTEGER NOT NULL, 
	published_at FLOAT NOT NULL, 
	started BOOLEAN NOT NULL, 
	state VARCHAR(10) NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (round, prompt_id, content_hash, purpose)
);
INSERT INTO "tasks" VALUES(1,1,'p-0','8ad4e53afeeea96f103fe0400c1d469870be7bbc6c7aa210e6eb10e9b2941b2b','label',3,'"prompt 0"','["response 0.0","response 0.1","response 0.2"]',0.0,0,1,1800000004.0,1,'open');
INSERT INTO "tasks" VALUES(2,1,'p-1','6f4cc0f7704e6ad7399a3ea71b1cc9a52e575eacecabad2981579b40682e3efd','label',3,'"prompt 1"','["response 1.0","response 1.1","response 1.2"]',0.0,1,1,1800000004.0,1,'open');
CREATE TABLE texts (
	answer_id INTEGER NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	nonce VARCHAR(32) NOT NULL, 
	text TEXT NOT NULL, 
	PRIMARY KEY (answer_id), 
	FOREIGN KEY(answer_id) REFERENCES answers (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
INSERT INTO "texts" VALUES(1,'b311d80528f6c9f9a758641612809c8f','fecc3f0e672b077e3345b13b56dad5b8','close');
CREATE INDEX slots_by_annotator ON slots (annotator_id, status);
CREATE INDEX slots_by_status ON slots (status);
CREATE INDEX answers_by_annotator ON answers (annotator_id, task_id);
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events is append-only'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events is append-only'); END;
CREATE TRIGGER answers_no_update BEFORE UPDATE ON answers BEGIN SELECT RAISE(ABORT, 'answers is append-only'); END;
CREATE TRIGGER answers_no_delete BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'answers is append-only'); END;
COMMIT;
