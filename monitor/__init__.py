"""The monitor: a page that shows what runs do, while they do it. It reads run directories and writes nothing there.

======================  ===================================================================
module                  what it holds
======================  ===================================================================
``app``                 the command line: ``python monitor/app.py --log_dir DIR``
``server``              the web server: page, poll, downloads, password
``guard``               what may be asked, and by whom
``password``            the password, and few wrong ones a second
``page``                the top bar, the tabs, the poll that fills the open tab
``tabs``                a file for each tab: its components and what fills them (package)
``change_token``        what is new on a tab, as a short text that changes with it
``i18n``                every text in English and Chinese, from texts.yaml
``store``               the runs and their numbers, read when somebody looks
``runs``                what is in the log folder
``metrics_collector``   a run's metrics, read as they are written
``log_parser``          training logs to records
``tensorboard_events``  TensorBoard event files to records
``columns``             a run's numbers in memory
``log_tail``            the console log: its end, a search, errors first
``samples``             what the model was asked and answered
``checkpoints``         the checkpoints of a run
``health``              what is going wrong, since when, and which knob to turn
``compare``             several runs side by side
``machines``            what the machines of a run were doing
``system``              GPUs, CPU, memory and disk over the last hour
``series``              smoothing, thinning, ranges
``choices``             what can be chosen for the charts
``figures``             series to Plotly figures, as dictionaries
``tables``              rows to HTML, escaped
``plain``               texts of runs as the page can show them
``exports``             numbers as CSV, curves as a picture
======================  ===================================================================
"""
