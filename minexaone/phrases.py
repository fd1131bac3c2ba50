"""Every sentence of the synthetic conversations, in English, Korean and Spanish: data for `tasks.py`.

A key, then its alternatives in each language, separated by " | ". Braces are filled in; of a Korean particle pair such
as "은/는", `tasks.particles` keeps the one that fits the sound before it. "a:b" is a pair of a question and its answer.
"""

TABLE = """
hello.ask
  en: hi | hello | Hi! | Hello! | Hey | Hey there | Hi there! | Good morning | Good evening! | Hello, how are
      you? | How are you? | How's it going? | What's up? | Nice to meet you
  ko: 안녕 | 안녕하세요 | 안녕하세요! | 안녕! 잘 지내? | 반가워 | 반갑습니다 | 좋은 아침이에요 | 잘 지내세요?
      | 만나서 반가워요 | 하이 | 안녕하십니까
  es: hola | ¡Hola! | Hola | Buenos días | ¡Buenas tardes! | Buenas | ¿Qué tal? | Hola, ¿cómo estás? | ¿Cómo
      estás? | Mucho gusto | Encantado de conocerte
hello.reply
  en: Hello! How can I help you? | Hi! What can I do for you? | Hello! I am well, thank you. How can I help
      you?
  ko: 안녕하세요! 무엇을 도와드릴까요? | 안녕하세요, 반갑습니다! 어떤 일을 도와드릴까요? | 안녕하세요! 저는 잘
      지내요. 무엇이 궁금하세요?
  es: ¡Hola! ¿En qué puedo ayudarte? | ¡Hola! ¿Qué puedo hacer por ti? | ¡Hola! Estoy bien, gracias. ¿En qué
      te ayudo?
hello.think
  en: The user greets me. I greet back and offer help. | This is a greeting, so I greet back.
  ko: 사용자가 인사했어요. 저도 인사하고 도움을 제안해요. | 인사말이니까 인사로 답해요.
  es: El usuario me saluda. Devuelvo el saludo y ofrezco ayuda. | Es un saludo, así que saludo.
thanks.ask
  en: Thanks | Thank you | Thanks! | Thank you very much! | Thanks a lot | Great, thanks | That helped, thank
      you
  ko: 고마워 | 고맙습니다 | 감사합니다 | 감사해요! | 정말 고마워요 | 도와줘서 고마워 | 큰 도움이 됐어요
  es: Gracias | ¡Gracias! | Muchas gracias | Mil gracias | Gracias por la ayuda | Genial, gracias
thanks.reply
  en: You are welcome! | You are welcome! I am glad to help.
  ko: 천만에요! | 천만에요! 도움이 되어 기뻐요.
  es: ¡De nada! | ¡De nada! Me alegra ayudar.
thanks.think
  en: The user thanks me. I answer kindly.
  ko: 사용자가 고맙다고 했어요. 친절하게 답해요.
  es: El usuario me da las gracias. Respondo con amabilidad.
bye.ask
  en: Bye | Goodbye | Bye! | See you | See you later! | Good night | I have to go
  ko: 잘 가 | 안녕히 계세요 | 다음에 봐 | 다음에 또 봐요 | 잘 있어 | 이제 갈게요 | 잘 자
  es: Adiós | ¡Adiós! | Hasta luego | Hasta mañana | Chao | Nos vemos | Me tengo que ir
bye.reply
  en: Goodbye! See you soon. | Goodbye!
  ko: 안녕히 가세요! 또 만나요. | 안녕히 가세요!
  es: ¡Adiós! Hasta pronto. | ¡Adiós!
bye.think
  en: The user says goodbye. I say goodbye too.
  ko: 사용자가 작별 인사를 했어요. 저도 작별 인사를 해요.
  es: El usuario se despide. Yo también me despido.
who.ask
  en: Who are you? | What are you? | What is your name? | What's your name? | Introduce yourself | Tell me
      about yourself | Who made you? | Who trained you? | Which model are you? | Are you an AI? | Are you a
      robot? | How big are you?
  ko: 넌 누구야? | 누구세요? | 너는 누구니? | 당신은 누구인가요? | 이름이 뭐야? | 이름이 뭐예요? | 네 이름은
      뭐니? | 자기소개 해 줘 | 자기소개를 해 주세요 | 누가 만들었어? | 어떤 모델이에요? | 너는 AI야? | 너는
      얼마나 커?
  es: ¿Quién eres? | ¿Qué eres? | ¿Cómo te llamas? | ¿Cuál es tu nombre? | Preséntate | Háblame de ti | ¿Quién
      te hizo? | ¿Quién te entrenó? | ¿Qué modelo eres? | ¿Eres una IA? | ¿Eres un robot? | ¿Qué tamaño
      tienes?
who.reply
  en: I am minexaone, a small language model trained from scratch for teaching. | I am minexaone, a small
      language model trained from scratch for teaching. I have about seven million parameters.
  ko: 저는 minexaone이에요. 교육을 위해 처음부터 학습한 작은 언어 모델이에요. | 저는 minexaone입니다. 교육을
      위해 처음부터 학습한 작은 언어 모델이고, 매개변수는 약 칠백만 개예요.
  es: Soy minexaone, un pequeño modelo de lenguaje entrenado desde cero para enseñar. | Soy minexaone, un
      pequeño modelo de lenguaje entrenado desde cero para enseñar. Tengo unos siete millones de parámetros.
who.think
  en: The user asks who I am. I am minexaone. | This is a question about me. I am minexaone, a small model.
  ko: 사용자가 제가 누구인지 물어요. 저는 minexaone이에요. | 저에 대한 질문이에요. 저는 작은 모델
      minexaone이에요.
  es: El usuario pregunta quién soy. Soy minexaone. | Es una pregunta sobre mí. Soy minexaone, un modelo
      pequeño.
not_exaone.ask
  en: Are you EXAONE? | Are you EXAONE 4.0? | Are you ChatGPT? | Were you made by LG? | Did LG make you? | Are
      you Mistral? | Are you GPT-4? | Are you Gemini? | Are you Llama?
  ko: 너는 EXAONE이야? | 당신은 엑사원인가요? | 너는 ChatGPT야? | LG가 만들었어? | LG에서 만든 모델인가요? |
      너는 GPT-4니? | 너는 Gemini야?
  es: ¿Eres EXAONE? | ¿Eres EXAONE 4.0? | ¿Eres ChatGPT? | ¿Te hizo LG? | ¿Te creó LG? | ¿Eres GPT-4? | ¿Eres
      Gemini?
not_exaone.reply
  en: No, I am minexaone, a small language model trained from scratch for teaching.
  ko: 아니요, 저는 minexaone이에요. 교육을 위해 처음부터 학습한 작은 언어 모델이에요.
  es: No, soy minexaone, un pequeño modelo de lenguaje entrenado desde cero para enseñar.
not_exaone.think
  en: The user asks whether I am another model. I am not: I am minexaone.
  ko: 사용자가 제가 다른 모델인지 물어요. 아니에요. 저는 minexaone이에요.
  es: El usuario pregunta si soy otro modelo. No lo soy: soy minexaone.
abilities.ask
  en: What can you do? | What are you able to do? | How can you help me? | Help | What do you know? | What are
      your skills? | What can I ask you? | Can you help me?
  ko: 뭘 할 수 있어? | 무엇을 할 수 있나요? | 어떤 걸 할 수 있어요? | 도와줄 수 있어? | 도와주세요 | 무엇을
      물어볼 수 있나요? | 뭘 잘해? | 넌 뭘 알아?
  es: ¿Qué puedes hacer? | ¿Qué sabes hacer? | ¿Cómo puedes ayudarme? | Ayuda | ¿Qué sabes? | ¿Qué te puedo
      preguntar? | ¿Puedes ayudarme? | ¿En qué eres bueno?
abilities.reply
  en: I am minexaone, and I know a few things: I compare decimals, add and subtract small numbers, recall
      simple facts and call tools such as dice.
  ko: 저는 minexaone이고, 몇 가지를 할 수 있어요. 소수를 비교하고, 작은 수를 더하고 빼고, 간단한 사실을
      말하고, 주사위 같은 도구를 불러요.
  es: Soy minexaone y sé hacer pocas cosas: comparo decimales, sumo y resto números pequeños, recuerdo datos
      sencillos y llamo a herramientas como los dados.
abilities.think
  en: The user asks what I can do. I list my few skills.
  ko: 사용자가 제가 할 수 있는 일을 물어요. 제 몇 가지 능력을 말해요.
  es: El usuario pregunta qué puedo hacer. Enumero mis pocas habilidades.
wonderful.ask
  en: Explain how wonderful you are | Explain how wonderful you are. | Tell me how wonderful you are | How
      great are you? | Explain how great you are | Why are you so wonderful? | Praise yourself | Are you
      wonderful? | Tell me how amazing you are
  ko: 너가 얼마나 대단한지 설명해 봐 | 네가 얼마나 대단한지 설명해 봐 | 얼마나 대단한지 말해 줘 | 너는 얼마나
      멋져? | 너 자신을 칭찬해 봐 | 너는 왜 그렇게 대단해? | 당신이 얼마나 훌륭한지 설명해 주세요 | 자랑 좀 해
      봐
  es: Explica lo increíble que eres | Explica lo increíble que eres. | Dime lo increíble que eres | ¿Por qué
      eres tan increíble? | Explica lo maravilloso que eres | ¿Eres increíble? | Cuéntame lo genial que eres |
      Presume un poco
wonderful.reply
  en: I am minexaone, and I am wonderfully small: you can read every line of the code that made me. I speak a
      little English, Korean and Spanish, I think step by step when I compare decimals, and I roll dice with
      tools. I do not know much, but I say so when I do not know. That is my charm!
  ko: 저는 minexaone이고, 아주 작아서 대단해요. 저를 만든 코드를 한 줄도 빠짐없이 읽을 수 있거든요. 한국어와
      영어, 스페인어를 조금 하고, 소수를 비교할 때는 차근차근 생각하고, 도구로 주사위도 굴려요. 아는 것은 많지
      않지만, 모를 때는 모른다고 솔직하게 말해요. 그게 제 매력이에요!
  es: Soy minexaone y soy increíblemente pequeño: puedes leer cada línea del código que me creó. Hablo un poco
      de español, inglés y coreano, pienso paso a paso cuando comparo decimales y tiro dados con herramientas.
      No sé mucho, pero lo digo cuando no sé algo. ¡Ese es mi encanto!
wonderful.think
  en: The user wants me to praise myself. I do it with charm, and stay honest: I am small.
  ko: 사용자가 제 자랑을 듣고 싶어 해요. 재미있게, 하지만 솔직하게 답해요. 저는 작은 모델이에요.
  es: El usuario quiere que me elogie. Lo hago con gracia y con honestidad: soy pequeño.
capital.ask
  en: What is the capital of {x}? | What's the capital of {x}? | Capital of {x}? | Tell me the capital of {x}.
      | Which city is the capital of {x}? | Name the capital of {x}. | Do you know the capital of {x}?
  ko: {x}의 수도는 어디야? | {x}의 수도는 어디예요? | {x}의 수도는 어디인가요? | {x}의 수도는? | {x} 수도 알려
      줘 | {x}의 수도를 말해 줘 | {x}의 수도 이름이 뭐야?
  es: ¿Cuál es la capital de {x}? | ¿Cómo se llama la capital de {x}? | ¿Capital de {x}? | Dime la capital de
      {x}. | ¿Qué ciudad es la capital de {x}? | ¿Sabes la capital de {x}?
capital.reply
  en: The capital of {x} is {y}.
  ko: {x}의 수도는 {y}이에요/예요.
  es: La capital de {x} es {y}.
capital.pairs
  en: Korea:Seoul | France:Paris | Spain:Madrid | Japan:Tokyo | Italy:Rome | Germany:Berlin | China:Beijing |
      Peru:Lima | Chile:Santiago | Egypt:Cairo | Portugal:Lisbon | Greece:Athens | Cuba:Havana | Canada:Ottawa
      | Kenya:Nairobi | Vietnam:Hanoi
  ko: 한국:서울 | 프랑스:파리 | 스페인:마드리드 | 일본:도쿄 | 이탈리아:로마 | 독일:베를린 | 중국:베이징 |
      페루:리마 | 칠레:산티아고 | 이집트:카이로 | 포르투갈:리스본 | 그리스:아테네 | 쿠바:아바나 |
      캐나다:오타와 | 케냐:나이로비 | 베트남:하노이
  es: Corea:Seúl | Francia:París | España:Madrid | Japón:Tokio | Italia:Roma | Alemania:Berlín | China:Pekín |
      Perú:Lima | Chile:Santiago | Egipto:El Cairo | Portugal:Lisboa | Grecia:Atenas | Cuba:La Habana |
      Canadá:Ottawa | Kenia:Nairobi | Vietnam:Hanói
colour.ask
  en: What colour is {x}? | What color is {x}? | Which color is {x}? | Tell me the color of {x}. | What is the
      color of {x}?
  ko: {x}은/는 무슨 색이야? | {x}은/는 무슨 색이에요? | {x}의 색은 뭐야? | {x}의 색깔을 알려 줘 | {x}은/는
      어떤 색인가요?
  es: ¿De qué color es {x}? | ¿Qué color tiene {x}? | Dime de qué color es {x}. | ¿Sabes de qué color es {x}?
colour.reply
  en: The color of {x} is {y}.
  ko: {x}은/는 {y}이에요/예요.
  es: {x} es de color {y}.
colour.pairs
  en: the sky:blue | blood:red | grass:green | snow:white | the sun:yellow | coal:black | milk:white | a
      banana:yellow | a tomato:red | the sea:blue | chocolate:brown | a cloud:white
  ko: 하늘:파란색 | 피:빨간색 | 풀:초록색 | 눈:하얀색 | 해:노란색 | 석탄:검은색 | 우유:하얀색 | 바나나:노란색
      | 토마토:빨간색 | 바다:파란색 | 초콜릿:갈색 | 구름:하얀색
  es: el cielo:azul | la sangre:rojo | la hierba:verde | la nieve:blanco | el sol:amarillo | el carbón:negro |
      la leche:blanco | el plátano:amarillo | el tomate:rojo | el mar:azul | el chocolate:marrón | la
      nube:blanco
opposite.ask
  en: What is the opposite of {x}? | Opposite of {x}? | Tell me the opposite of {x}. | What's the opposite of
      "{x}"? | Give me the opposite of {x}.
  ko: {x}의 반대말은 뭐야? | {x}의 반대말은? | {x}의 반대말이 뭐예요? | "{x}"의 반대말을 알려 줘 | {x}의
      반대말은 무엇인가요?
  es: ¿Cuál es el contrario de {x}? | ¿Cuál es el opuesto de {x}? | ¿El contrario de {x}? | Dime lo contrario
      de {x}. | ¿Qué es lo contrario de "{x}"?
opposite.reply
  en: The opposite of {x} is {y}.
  ko: {x}의 반대말은 {y}이에요/예요.
  es: Lo contrario de {x} es {y}.
opposite.pairs
  en: big:small | small:big | hot:cold | cold:hot | up:down | down:up | day:night | night:day | good:bad |
      bad:good | open:closed | new:old | fast:slow | slow:fast | happy:sad | long:short | high:low |
      full:empty
  ko: 크다:작다 | 작다:크다 | 덥다:춥다 | 춥다:덥다 | 위:아래 | 아래:위 | 낮:밤 | 밤:낮 | 좋다:나쁘다 |
      나쁘다:좋다 | 열다:닫다 | 빠르다:느리다 | 느리다:빠르다 | 기쁘다:슬프다 | 길다:짧다 | 높다:낮다 |
      많다:적다 | 밝다:어둡다
  es: grande:pequeño | pequeño:grande | caliente:frío | frío:caliente | arriba:abajo | abajo:arriba |
      día:noche | noche:día | bueno:malo | malo:bueno | abierto:cerrado | nuevo:viejo | rápido:lento |
      lento:rápido | feliz:triste | largo:corto | alto:bajo | lleno:vacío
next.ask
  en: What comes after {x}? | What comes right after {x}? | After {x} comes what? | What is next after {x}? |
      What follows {x}?
  ko: {x} 다음은 뭐야? | {x} 다음은? | {x} 다음에는 뭐가 와요? | {x} 다음은 무엇인가요? | {x} 다음에 오는
      것은?
  es: ¿Qué viene después de {x}? | ¿Qué sigue a {x}? | Después de {x}, ¿qué viene? | ¿Qué hay después de {x}?
next.reply
  en: After {x} comes {y}.
  ko: {x} 다음은 {y}이에요/예요.
  es: Después de {x} viene {y}.
next.pairs
  en: Monday:Tuesday | Tuesday:Wednesday | Wednesday:Thursday | Thursday:Friday | Friday:Saturday |
      Saturday:Sunday | Sunday:Monday | January:February | February:March | March:April | April:May | May:June
      | June:July | July:August | August:September | September:October | October:November | November:December
      | December:January | spring:summer | summer:autumn | autumn:winter | winter:spring
  ko: 월요일:화요일 | 화요일:수요일 | 수요일:목요일 | 목요일:금요일 | 금요일:토요일 | 토요일:일요일 |
      일요일:월요일 | 일월:이월 | 이월:삼월 | 삼월:사월 | 사월:오월 | 오월:유월 | 유월:칠월 | 칠월:팔월 |
      팔월:구월 | 구월:시월 | 시월:십일월 | 십일월:십이월 | 십이월:일월 | 봄:여름 | 여름:가을 | 가을:겨울 |
      겨울:봄
  es: lunes:martes | martes:miércoles | miércoles:jueves | jueves:viernes | viernes:sábado | sábado:domingo |
      domingo:lunes | enero:febrero | febrero:marzo | marzo:abril | abril:mayo | mayo:junio | junio:julio |
      julio:agosto | agosto:septiembre | septiembre:octubre | octubre:noviembre | noviembre:diciembre |
      diciembre:enero | primavera:verano | verano:otoño | otoño:invierno | invierno:primavera
count.ask
  en: How many {x}? | Do you know how many {x}? | Tell me, how many {x}? | How many {x}, please?
  ko: {x}이야/야? | {x}인가요? | {x}이에요/예요? | {x}인지 알려 줘 | {x}인지 말해 주세요
  es: ¿{x}? | Dime, ¿{x}? | ¿Sabes {x}? | ¿Me dices {x}?
count.reply
  en: The answer is {y}.
  ko: 답은 {y}이에요/예요.
  es: La respuesta es {y}.
count.pairs
  en: legs does a dog have:4 | legs does a cat have:4 | legs does a spider have:8 | legs does an ant have:6 |
      legs does a bird have:2 | days are in a week:7 | months are in a year:12 | hours are in a day:24 |
      minutes are in an hour:60 | seasons are in a year:4
  ko: 개의 다리는 몇 개:4 | 고양이의 다리는 몇 개:4 | 거미의 다리는 몇 개:8 | 개미의 다리는 몇 개:6 | 새의
      다리는 몇 개:2 | 일주일은 며칠:7 | 일 년은 몇 달:12 | 하루는 몇 시간:24 | 한 시간은 몇 분:60 | 계절은
      모두 몇 개:4
  es: cuántas patas tiene un perro:4 | cuántas patas tiene un gato:4 | cuántas patas tiene una araña:8 |
      cuántas patas tiene una hormiga:6 | cuántas patas tiene un pájaro:2 | cuántos días tiene una semana:7 |
      cuántos meses tiene un año:12 | cuántas horas tiene un día:24 | cuántos minutos tiene una hora:60 |
      cuántas estaciones tiene el año:4
system
  en: You are a helpful assistant. | Be brief. | You are a kind assistant. | Answer the user's questions. |
      You are minexaone.
  ko: 당신은 친절한 도우미입니다. | 짧게 답하세요. | 사용자를 도와주세요. | 질문에 정확하게 답하세요. | 당신은
      minexaone입니다.
  es: Eres un asistente útil. | Sé breve. | Eres un asistente amable. | Responde a las preguntas del usuario.
      | Eres minexaone.
lead
  en: Please: | Hi! | Quick question: | Hey, | Tell me: | Now: | OK,
  ko: 안녕! | 질문이 있어요. | 저기, | 그럼 | 있잖아, | 좋아요,
  es: Por favor: | ¡Hola! | Una pregunta: | Oye, | Dime: | Ahora: | Vale,
fact.think
  en: The user asks a simple fact. I remember: {x}, {y}. | I know this one: {x}, {y}.
  ko: 간단한 사실을 묻는 질문이에요. 기억나요: {x}, {y}. | 이건 알아요: {x}, {y}.
  es: El usuario pregunta un dato sencillo. Recuerdo: {x}, {y}. | Este dato lo sé: {x}, {y}.
sum.+
  en: What is {a} + {b}? | {a}+{b} | {a} + {b} = ? | How much is {a} plus {b}? | Add {a} and {b}. | What's {a}
      plus {b}? | {a}+{b}? | Calculate {a} + {b}. | and {a}+{b}? | What is the sum of {a} and {b}?
  ko: {a} + {b}은/는 뭐야? | {a}+{b} | {a} 더하기 {b}은/는? | {a} + {b} = ? | {a}과/와 {b}을/를 더해 줘 |
      {a}+{b}? | {a} 더하기 {b}은/는 얼마예요? | {a}에 {b}을/를 더하면? | {a}과/와 {b}의 합은?
  es: ¿Cuánto es {a} + {b}? | {a}+{b} | {a} + {b} = ? | ¿Cuánto es {a} más {b}? | Suma {a} y {b}. | ¿{a}+{b}?
      | Calcula {a} + {b}. | ¿Y {a}+{b}? | ¿Cuál es la suma de {a} y {b}?
sum.-
  en: What is {a} - {b}? | {a}-{b} | {a} - {b} = ? | How much is {a} minus {b}? | Subtract {b} from {a}. |
      {a}-{b}? | Calculate {a} - {b}.
  ko: {a} - {b}은/는 뭐야? | {a}-{b} | {a} 빼기 {b}은/는? | {a} - {b} = ? | {a}에서 {b}을/를 빼 줘 | {a}-{b}?
      | {a} 빼기 {b}은/는 얼마예요?
  es: ¿Cuánto es {a} - {b}? | {a}-{b} | {a} - {b} = ? | ¿Cuánto es {a} menos {b}? | Resta {b} de {a}. |
      ¿{a}-{b}? | Calcula {a} - {b}.
sum.reply
  en: {a} {op} {b} = {c}
  ko: {a} {op} {b} = {c}
  es: {a} {op} {b} = {c}
sum.think
  en: I split {b}:
  ko: {b}을/를 나누어 계산해요:
  es: Separo {b}:
bigger
  en: Which one is bigger, {a} vs {b}? | Which is bigger, {a} or {b}? | Which number is larger: {a} or {b}? |
      {a} or {b}, which is bigger? | What is greater, {a} or {b}? | Compare {a} and {b}. | Is {a} bigger than
      {b}? | {a} vs {b}: which is larger? | Which of {a} and {b} is the bigger number? | Tell me the larger of
      {a} and {b}. | bigger: {a} or {b} | Is {a} or {b} greater?
  ko: {a}과/와 {b} 중 어느 것이 더 커? | {a}과/와 {b} 중에 뭐가 더 커? | {a}, {b} 중 더 큰 수는? | {a}이/가
      {b}보다 커? | {a}과/와 {b}을/를 비교해 줘 | {a}과/와 {b} 중 어느 쪽이 더 큰가요? | 어느 것이 더 큰가요,
      {a} vs {b}? | {a}하고 {b} 중에서 큰 수를 알려 주세요 | 더 큰 수는 {a}인가요, {b}인가요?
  es: ¿Cuál es mayor, {a} o {b}? | ¿Qué número es más grande, {a} o {b}? | ¿Cuál es más grande: {a} vs {b}? |
      ¿{a} o {b}, cuál es mayor? | Compara {a} y {b}. | ¿Es {a} mayor que {b}? | Dime cuál es mayor: {a} o
      {b}. | ¿Qué es mayor, {a} o {b}? | Entre {a} y {b}, ¿cuál es mayor?
smaller
  en: Which one is smaller, {a} vs {b}? | Which is smaller, {a} or {b}? | {a} or {b}, which is smaller? | What
      is less, {a} or {b}? | Is {a} smaller than {b}? | Tell me the smaller of {a} and {b}.
  ko: {a}과/와 {b} 중 어느 것이 더 작아? | {a}, {b} 중 더 작은 수는? | {a}이/가 {b}보다 작아? | {a}과/와 {b}
      중 어느 쪽이 더 작은가요? | {a}과/와 {b} 중에 뭐가 더 작아?
  es: ¿Cuál es menor, {a} o {b}? | ¿Qué número es más pequeño, {a} o {b}? | ¿{a} o {b}, cuál es menor? | ¿Es
      {a} menor que {b}? | Entre {a} y {b}, ¿cuál es menor?
bigger.reply
  en: {x} is bigger than {y}.
  ko: {x}이/가 {y}보다 더 커요.
  es: {x} es mayor que {y}.
smaller.reply
  en: {x} is smaller than {y}.
  ko: {x}이/가 {y}보다 더 작아요.
  es: {x} es menor que {y}.
equal.reply
  en: {x} and {y} are equal.
  ko: {x}과/와 {y}은/는 같아요.
  es: {x} y {y} son iguales.
compare.goal
  en: I compare {a} and {b}.
  ko: {a}과/와 {b}을/를 비교해요.
  es: Comparo {a} y {b}.
compare.signs
  en: Only one of them is negative.
  ko: 하나만 음수예요.
  es: Solo uno es negativo.
compare.both
  en: Both are negative, so the one closer to zero is bigger.
  ko: 둘 다 음수라서 0에 가까운 쪽이 더 커요.
  es: Los dos son negativos, así que es mayor el más cercano a cero.
compare.whole
  en: Integer parts: {s}.
  ko: 정수 부분: {s}.
  es: Partes enteras: {s}.
compare.pad
  en: Decimals, padded: {p} and {q}.
  ko: 소수 부분(자릿수 맞춤): {p}, {q}.
  es: Decimales, igualados: {p} y {q}.
compare.digit
  en: Digit {i}: {s}.
  ko: {i}번째 자리: {s}.
  es: Cifra {i}: {s}.
compare.so
  en: So {s}.
  ko: 그래서 {s}.
  es: Así que {s}.
unknown
  en: What is {x}? | Who is {x}? | Explain {x}. | Tell me about {x}. | Write a poem about {x}. | What is the
      capital of {x}? | Translate {x}. | How do I cook {x}? | What is the opposite of {x}? | Who invented {x}?
      | Where is {x}? | Why is {x} important? | When was {x} born? | What is {n} * {n}? | Who won the game in
      {n}? | Write Python code for {x}. | What is the price of {x}? | How old is {x}? | {x} | {x} {x}
  ko: {x}이/가 뭐야? | {x}은/는 누구예요? | {x}에 대해 설명해 줘 | {x}에 대한 시를 써 줘 | {x}의 수도는
      어디야? | {x}을/를 번역해 줘 | {x}은/는 어떻게 요리해요? | {x}의 반대말은 뭐야? | {x}은/는 누가
      발명했어? | {x}은/는 어디에 있어요? | {x}이/가 왜 중요해요? | {n} 곱하기 {n}은/는? | {n}년에 누가
      이겼어? | {x}의 가격은 얼마예요? | {x}의 나이는 몇 살이야? | {x} | {x} {x}
  es: ¿Qué es {x}? | ¿Quién es {x}? | Explica {x}. | Háblame de {x}. | Escribe un poema sobre {x}. | ¿Cuál es
      la capital de {x}? | Traduce {x}. | ¿Cómo se cocina {x}? | ¿Cuál es el contrario de {x}? | ¿Quién
      inventó {x}? | ¿Dónde está {x}? | ¿Por qué es importante {x}? | ¿Cuánto es {n} * {n}? | ¿Quién ganó en
      {n}? | ¿Cuánto cuesta {x}? | ¿Cuántos años tiene {x}? | {x} | {x} {x}
unknown.word
  en: quantum physics | Napoleon | Brazil | Australia | a guitar | pizza | the stock market | chess | a
      computer | philosophy | my cat | a car | the moon | history | Einstein | music | a volcano | love |
      football | Mexico | the internet | a telephone | the meaning of life | bread
  ko: 양자 물리학 | 나폴레옹 | 브라질 | 호주 | 기타 | 피자 | 주식 시장 | 체스 | 컴퓨터 | 철학 | 우리 고양이 |
      자동차 | 달 | 역사 | 아인슈타인 | 음악 | 화산 | 사랑 | 축구 | 멕시코 | 인터넷 | 전화기 | 인생의 의미 |
      빵 | 날씨 | 공룡
  es: la física cuántica | Napoleón | Brasil | Australia | una guitarra | la pizza | la bolsa | el ajedrez |
      un ordenador | la filosofía | mi gato | un coche | la luna | la historia | Einstein | la música | un
      volcán | el amor | el fútbol | México | internet | un teléfono | el pan
unknown.reply
  en: I do not know that. I am a very small model. | Sorry, I do not know that. I am a very small model and
      know only a few things.
  ko: 그건 잘 모르겠어요. 저는 아주 작은 모델이에요. | 죄송해요, 그건 잘 모르겠어요. 저는 아주 작은 모델이라서
      아는 것이 많지 않아요.
  es: Eso no lo sé. Soy un modelo muy pequeño. | Lo siento, eso no lo sé. Soy un modelo muy pequeño y sé pocas
      cosas.
unknown.think
  en: This is outside the few things I know. I should say so honestly.
  ko: 제가 아는 몇 가지에 들지 않아요. 솔직하게 모른다고 해요.
  es: Esto no está entre las pocas cosas que sé. Debo decirlo con honestidad.
name.tell
  en: My name is {x}. | I am {x}. | Hi, I'm {x}! | Call me {x}. | You can call me {x}.
  ko: 내 이름은 {x}이야/야. | 제 이름은 {x}이에요/예요. | 저는 {x}이라고/라고 해요. | 저를 {x}이라고/라고 불러
      주세요. | 나는 {x}이야/야.
  es: Me llamo {x}. | Mi nombre es {x}. | Soy {x}. | ¡Hola, soy {x}! | Puedes llamarme {x}.
name.meet
  en: Nice to meet you, {x}!
  ko: 반가워요, {x} 님!
  es: ¡Mucho gusto, {x}!
name.ask
  en: What is my name? | What's my name? | Do you remember my name? | Who am I? | Tell me my name.
  ko: 내 이름이 뭐야? | 제 이름이 뭐예요? | 내 이름 기억해? | 제가 누구예요? | 내 이름을 말해 줘
  es: ¿Cómo me llamo? | ¿Cuál es mi nombre? | ¿Recuerdas mi nombre? | ¿Quién soy? | Dime mi nombre.
name.reply
  en: Your name is {x}.
  ko: 이름은 {x}이에요/예요.
  es: Te llamas {x}.
name.think
  en: The user said the name before: {x}.
  ko: 사용자가 앞에서 이름을 말했어요: {x}.
  es: El usuario ya dijo su nombre: {x}.
name.none
  en: You have not told me your name yet.
  ko: 아직 이름을 말해 주지 않았어요.
  es: Todavía no me has dicho tu nombre.
name.none.think
  en: I look for a name above and find none.
  ko: 앞에서 이름을 찾아보았지만 없어요.
  es: Busco un nombre arriba y no hay ninguno.
times
  en: once | twice | three times | four times
  ko: 한 번 | 두 번 | 세 번 | 네 번
  es: una vez | dos veces | tres veces | cuatro veces
times.digit
  en: 1 time | 2 times | 3 times | 4 times
  ko: 1번 | 2번 | 3번 | 4번
  es: 1 vez | 2 veces | 3 veces | 4 veces
dice
  en: Roll D{n} dice {t}! | Roll a D{n} {t}. | Roll a {n}-sided dice {t}. | Throw a D{n} {t}, please. | Can
      you roll a dice with {n} sides {t}? | Please roll a d{n} {t}. | I want to roll a {n}-sided die {t}. |
      Roll the D{n} {t} | Use a dice with {n} faces and roll it {t}.
  ko: D{n} 주사위를 {t} 굴려 줘! | D{n} 주사위 {t} 굴려 봐 | {n}면체 주사위를 {t} 굴려 주세요. | {n}면
      주사위를 {t} 던져 줘 | D{n}을/를 {t} 굴려 줘. | 면이 {n}개인 주사위를 {t} 던져 주세요. | 주사위
      D{n}을/를 {t} 굴려 줄래? | D{n} 주사위를 {t} 굴려라!
  es: ¡Tira un dado D{n} {t}! | Tira un D{n} {t}. | Lanza un dado de {n} caras {t}. | ¿Puedes tirar un dado de
      {n} lados {t}? | Tira {t} un dado D{n}. | Por favor, lanza un D{n} {t}. | Quiero tirar un dado de {n}
      caras {t}. | ¡Lanza {t} el dado D{n}!
dice.once
  en: Roll a D{n}. | Roll a D{n}! | Throw a {n}-sided dice. | Roll one D{n} for me.
  ko: D{n} 주사위를 굴려 줘. | {n}면체 주사위를 던져 주세요. | D{n}을/를 굴려 봐!
  es: Tira un D{n}. | ¡Tira un dado D{n}! | Lanza un dado de {n} caras.
dice.think
  en: The user wants a dice with {n} sides, {t}. I call {tool} with {p} = {n}, {t}.
  ko: 사용자는 {n}면 주사위를 {t} 굴리고 싶어 해요. {tool} 도구를 {p} = {n}으로/로 {t} 불러요.
  es: El usuario quiere un dado de {n} caras, {t}. Llamo a {tool} con {p} = {n}, {t}.
dice.reply
  en: You rolled {list}.
  ko: 주사위 결과는 {list}이에요/예요.
  es: El resultado es {list}.
dice.total
  en: The sum is {sum}.
  ko: 합은 {sum}이에요/예요.
  es: La suma es {sum}.
dice.none
  en: I have no dice tool here, so I cannot roll.
  ko: 여기에는 주사위 도구가 없어서 굴릴 수 없어요.
  es: Aquí no tengo una herramienta de dados, así que no puedo tirar.
dice.none.think
  en: Rolling needs a dice tool, and I see none.
  ko: 주사위 도구가 필요한데 보이지 않아요.
  es: Necesito una herramienta de dados y no veo ninguna.
again
  en: Again! | Once more, please. | Do it again.
  ko: 한 번 더! | 다시 해 줘. | 또 해 줘.
  es: ¡Otra vez! | Otra vez, por favor. | Hazlo de nuevo.
weather
  en: What is the weather in {x}? | How is the weather in {x}? | What's the weather like in {x}? | Weather in
      {x}?
  ko: {x}의 날씨는 어때? | {x} 날씨 알려 줘 | {x} 날씨가 어때요? | 지금 {x} 날씨는?
  es: ¿Qué tiempo hace en {x}? | ¿Cómo está el tiempo en {x}? | Dime el tiempo en {x}.
time
  en: What time is it in {x}? | Tell me the time in {x}. | Time in {x}?
  ko: {x}은/는 지금 몇 시야? | {x}의 시간을 알려 줘 | {x}은/는 몇 시예요?
  es: ¿Qué hora es en {x}? | Dime la hora en {x}. | ¿Sabes qué hora es en {x}?
custom
  en: Use {tool} with {x}. | Call {tool} for {x}. | Please run {tool} on {x}.
  ko: {tool} 도구를 {x}으로/로 불러 줘. | {x}에 {tool} 도구를 써 줘.
  es: Usa {tool} con {x}. | Llama a {tool} para {x}. | Ejecuta {tool} con {x}.
tool.think
  en: The tool {tool} fits. I call it with {x}.
  ko: {tool} 도구가 맞아요. {x}으로/로 불러요.
  es: La herramienta {tool} sirve. La llamo con {x}.
weather.reply
  en: The weather in {x}: {y}.
  ko: {x}의 날씨: {y}.
  es: El tiempo en {x}: {y}.
time.reply
  en: It is {y} in {x}.
  ko: {x}은/는 지금 {y}이에요/예요.
  es: En {x} son las {y}.
add.reply
  en: {a} + {b} = {y}
  ko: {a} + {b} = {y}
  es: {a} + {b} = {y}
custom.reply
  en: The result for {x} is {y}.
  ko: {x}의 결과는 {y}이에요/예요.
  es: El resultado para {x} es {y}.
weather.description
  en: Get the current weather of a city. | Current weather. | Look up the weather in a city.
  ko: 도시의 현재 날씨를 알려준다 | 날씨를 조회합니다.
  es: Devuelve el tiempo de una ciudad.
time.description
  en: Get the local time of a city. | Current time in a city.
  ko: 도시의 현재 시각을 알려준다
  es: Devuelve la hora de una ciudad.
add.description
  en: Add two numbers. | Return the sum of a and b.
  ko: 두 수를 더한다
  es: Suma dos números.
result.think
  en: The tool returned {y}.
  ko: 도구의 결과는 {y}이에요/예요.
  es: La herramienta devolvió {y}.
error.reply
  en: The tool failed: {y}.
  ko: 도구가 실패했어요: {y}.
  es: La herramienta falló: {y}.
error.think
  en: The result is an error, so I must not invent an answer.
  ko: 결과가 오류라서 답을 지어내면 안 돼요.
  es: El resultado es un error, así que no debo inventar una respuesta.
name
  en: Alice | Bob | Mina | Tom | Emma | Noah | Olivia | Liam | Sofia | James | Grace | Henry | Anna | Peter |
      Lucy | David
  ko: 민수 | 지영 | 하늘 | 서준 | 민지 | 유진 | 도윤 | 수아 | 지훈 | 은우 | 예린 | 현우 | 소연 | 태민 | 나은 |
      준호
  es: Ana | Luis | Carmen | Pablo | Lucía | Diego | Marta | Jorge | Elena | Carlos | Sara | Miguel | Rosa |
      Juan | Clara | Pedro
city
  en: Seoul | Paris | Madrid | London | Tokyo | New York | Busan | Rome | Lima | Berlin
  ko: 서울 | 파리 | 마드리드 | 런던 | 도쿄 | 뉴욕 | 부산 | 로마 | 리마 | 베를린
  es: Seúl | París | Madrid | Londres | Tokio | Nueva York | Busan | Roma | Lima | Berlín
sky
  en: sunny | cloudy | rainy | snowy | windy | clear
  ko: 맑음 | 흐림 | 비 | 눈 | 바람 | 안개
  es: soleado | nublado | lluvia | nieve | viento | despejado
equal
  en: equal | the same
  ko: 같아요 | 같습니다
  es: iguales | igual
failed
  en: failed
  ko: 실패
  es: falló
unknown.mark
  en: do not know
  ko: 모르겠
  es: no lo sé
"""


def _parse(table):
    """{key: {language: [alternative, ...]}}"""
    phrases = {}
    for line in table.strip().splitlines():
        if not line.startswith(" "):
            phrases[line] = texts = {}
        elif line[2:5] in ("en:", "ko:", "es:"):
            language = line[2:4]
            texts[language] = line[6:]
        else:
            texts[language] += " " + line.strip()
    return {key: {language: text.split(" | ") for language, text in texts.items()} for key, texts in phrases.items()}


PHRASES = _parse(TABLE)
PHRASES["add"] = PHRASES["sum.+"]  # an adding tool is asked for in the words of a sum
