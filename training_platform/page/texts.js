// Every text of the page, in English and Chinese.
"use strict";
const TEXTS = {
  title: ["Training platform", "训练平台"],
  lost: ["no connection; trying again", "连接中断，正在重试"],
  other: ["中文", "English"],
  new_job: ["New job", "新建任务"],
  filter: ["Filter by name", "按名字筛选"],
  name: ["Name", "名字"],
  state: ["State", "状态"],
  algorithm: ["Algorithm", "算法"],
  progress: ["Progress", "进度"],
  reward: ["Reward / loss", "奖励 / 损失"],
  priority: ["Priority", "优先级"],
  actions: ["", ""],
  start: ["Start", "启动"],
  stop: ["Stop", "停止"],
  resume: ["Resume", "继续"],
  restart: ["From scratch", "从头开始"],
  delete: ["Delete", "删除"],
  sure_stop: ["Stop {0}? Its run leaves a checkpoint and can be resumed.", "停止 {0}？它会留下检查点，之后可以继续。"],
  sure_delete: ["Forget the job {0}? Its run directory stays.", "删除任务 {0}？运行目录会保留。"],
  no_jobs: ["No jobs yet.", "还没有任务。"],
  more: ["Show more", "显示更多"],
  search_finds: ["The newest {0} are shown; the filter finds all others.", "只显示最新的 {0} 个；用筛选可以找到其余的。"],
  free: ["free", "空闲"],
  held: ["held by {0}", "被 {0} 占用"],
  waits: ["waits: place {0}, needs {1}, {2} free", "等待：第 {0} 位，需要 {1}，空闲 {2}"],
  behind: ["behind", "前面是"],
  step: ["step {0}", "第 {0} 步"],
  step_of: ["step {0} of {1}", "第 {0} / {1} 步"],
  left: ["{0} left", "还剩 {0}"],
  no_curves: ["No numbers yet.", "还没有数据。"],
  log: ["Log", "日志"],
  checkpoints: ["Checkpoints", "检查点"],
  health: ["Health", "健康"],
  cause: ["Cause", "原因"],
  fix: ["What to do", "处理方法"],
  close: ["Close", "关闭"],
  check: ["Check", "检查"],
  create: ["Create", "创建"],
  create_start: ["Create and start", "创建并启动"],
  knobs: ["All knobs of {0}", "{0} 的全部配置项"],
  checking: ["checking; this takes some seconds", "检查中，需要几秒"],
  can_start: ["It can start.", "可以启动。"],
  cannot_start: ["It cannot start.", "不能启动。"],
  plan: ["Memory", "显存"],
  peak: ["{0} GB of {1} GB on each of {2} GPUs", "{2} 张 GPU，每张 {0} GB / {1} GB"],
  auto: ["auto", "auto"],
  created: ["created", "已创建"],
  queued: ["queued", "排队中"],
  starting: ["starting", "启动中"],
  running: ["running", "运行中"],
  stopping: ["stopping", "停止中"],
  finished: ["finished", "已完成"],
  failed: ["failed", "失败"],
  stopped: ["stopped", "已停止"],
  died: ["died", "已中断"],
  silent: ["silent", "无响应"],
  field_name: ["Name of the run", "运行的名字"],
  field_model_path: ["Model: a folder or a Hugging Face id", "模型：文件夹或 Hugging Face id"],
  field_train_data_path: ["Training data", "训练数据"],
  field_eval_data_path: ["Validation data", "验证数据"],
  field_num_gpus: ["GPUs; 0: the CPU", "GPU 数；0：CPU"],
  field_nnodes: ["machines, of a Ray cluster", "机器数（Ray 集群）"],
  field_learning_rate: ["Learning rate", "学习率"],
  field_batch_size: ["Batch size", "批大小"],
  field_num_epochs: ["Epochs", "轮数"],
  field_priority: ["Priority, higher first", "优先级，高者先"],
  field_max_restarts: ["Restarts after faults of the machine", "机器故障后的重试次数"],
  no_token: ["A token is needed: the password of the login is the token.", "需要 token：登录时的密码就是 token。"],
};
const language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");
const column = language === "zh" ? 1 : 0;

/** The text of a key, with its {0}, {1} filled in; another word stays as it is. */
function text(key, ...values) {
  const found = TEXTS[key] ? TEXTS[key][column] : key;
  return values.reduce((said, value, place) => said.replaceAll(`{${place}}`, value), found);
}

/** An element with attributes and children; children that are texts are never HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
