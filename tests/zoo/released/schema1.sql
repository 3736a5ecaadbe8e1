BEGIN TRANSACTION;
CREATE TABLE checkpoint (
	sequence INTEGER NOT NULL, 
	run_id VARCHAR(12) NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	epoch INTEGER, 
	source VARCHAR(10) NOT NULL, 
	metrics JSON NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	PRIMARY KEY (sequence), 
	FOREIGN KEY(run_id) REFERENCES run (id)
);
INSERT INTO "checkpoint" VALUES(1,'0fd80248fe8a','best','fae65066363016a122210e92f2fb28449f8e3ee6ef8b4187bcde676c67d33449',1028,2,'weights','{"val_accuracy": 0.9}','2026-11-26T02:15:23.831+00:00');
CREATE TABLE dataset (
	id VARCHAR(64) NOT NULL, 
	data_ref TEXT NOT NULL, 
	data_fingerprint VARCHAR(64) NOT NULL, 
	split_hash VARCHAR(64) NOT NULL, 
	task VARCHAR(20) NOT NULL, 
	classes JSON NOT NULL, 
	preprocessing JSON NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "dataset" VALUES('61f8cc51960b09e424e75c4c1430f8abc83a42e3794c5ec2a45e84e42cff0c2a','digits','f0','s0','classification','["0", "1"]','{"mean": [0.5]}');
CREATE TABLE history (
	run_id VARCHAR(12) NOT NULL, 
	epoch INTEGER NOT NULL, 
	train_loss FLOAT, 
	train_metric FLOAT, 
	val_loss FLOAT, 
	val_metric FLOAT, 
	lr FLOAT, 
	grad_norm FLOAT, 
	seconds FLOAT, 
	averages JSON, 
	PRIMARY KEY (run_id, epoch), 
	FOREIGN KEY(run_id) REFERENCES run (id)
);
INSERT INTO "history" VALUES('0fd80248fe8a',1,1.0,NULL,2.0,NULL,NULL,NULL,NULL,'{"ema": [0.5, 0.25]}');
INSERT INTO "history" VALUES('0fd80248fe8a',2,0.5,NULL,1.0,NULL,NULL,NULL,NULL,'{"ema": [0.5, 0.25]}');
CREATE TABLE meta (
	"key" VARCHAR(40) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('schema','1');
CREATE TABLE parent (
	run_id VARCHAR(12) NOT NULL, 
	position INTEGER NOT NULL, 
	parent_id VARCHAR(12) NOT NULL, 
	PRIMARY KEY (run_id, position), 
	FOREIGN KEY(run_id) REFERENCES run (id), 
	FOREIGN KEY(parent_id) REFERENCES run (id)
);
INSERT INTO "parent" VALUES('b9671bef3a4b',0,'0fd80248fe8a');
INSERT INTO "parent" VALUES('b9671bef3a4b',1,'75a8988a52a9');
CREATE TABLE run (
	sequence INTEGER NOT NULL, 
	id VARCHAR(12) NOT NULL, 
	identity VARCHAR(64) NOT NULL, 
	dataset_id VARCHAR(64) NOT NULL, 
	name TEXT NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	seed INTEGER, 
	config JSON NOT NULL, 
	config_hash VARCHAR(64) NOT NULL, 
	varied JSON NOT NULL, 
	status VARCHAR(20) NOT NULL, 
	created_at VARCHAR(32) NOT NULL, 
	requested_at VARCHAR(40) NOT NULL, 
	started_at VARCHAR(32), 
	finished_at VARCHAR(32), 
	best_epoch INTEGER, 
	epochs INTEGER, 
	metrics JSON NOT NULL, 
	seconds FLOAT, 
	error TEXT, 
	environment JSON NOT NULL, 
	PRIMARY KEY (sequence), 
	UNIQUE (id), 
	UNIQUE (identity), 
	FOREIGN KEY(dataset_id) REFERENCES dataset (id)
);
INSERT INTO "run" VALUES(1,'0fd80248fe8a','ae376c8dae683e401385eb0467396229ec39ed68e29eab25f31b5f50148cab7a','61f8cc51960b09e424e75c4c1430f8abc83a42e3794c5ec2a45e84e42cff0c2a','digits-mlp','single',0,'{"optim": {"lr": 0.001}}','c0','{}','finished','2026-11-26T02:15:23.789+00:00','2026-11-26T02:15:23.796+00:00','2026-11-26T02:15:23.810+00:00','2026-11-26T02:15:23.819+00:00',2,2,'{"val_accuracy": 0.9}',1.5,NULL,'{"python": "3.11.7", "platform": "Linux", "torch": "2.10.0"}');
INSERT INTO "run" VALUES(2,'75a8988a52a9','5d96a2270ea723570a7997c68fec8118a170c253ef1f757d5953f2b2b7dbd66b','61f8cc51960b09e424e75c4c1430f8abc83a42e3794c5ec2a45e84e42cff0c2a','digits-mlp','single',1,'{"optim": {"lr": 0.001}}','c0','{}','queued','2026-11-26T02:15:23.789+00:00','2026-11-26T02:15:23.796+00:00',NULL,NULL,NULL,NULL,'{}',NULL,NULL,'{"python": "3.11.7", "platform": "Linux", "torch": "2.10.0"}');
INSERT INTO "run" VALUES(3,'b9671bef3a4b','2accd51091d4f7594b58884ea57032652b130962def892261ee56509c075de60','61f8cc51960b09e424e75c4c1430f8abc83a42e3794c5ec2a45e84e42cff0c2a','soup','weights',NULL,'{"optim": {"lr": 0.001}}','c1','{}','queued','2026-11-26T02:15:23.839+00:00','2026-11-26T02:15:23.844+00:00',NULL,NULL,NULL,NULL,'{}',NULL,NULL,'{"python": "3.11.7", "platform": "Linux", "torch": "2.10.0"}');
CREATE INDEX run_name ON run (name);
CREATE INDEX checkpoint_content ON checkpoint (sha256);
CREATE INDEX checkpoint_run ON checkpoint (run_id);
COMMIT;
